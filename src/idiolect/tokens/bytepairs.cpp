// Byte-level byte pair encoding of much text: cut into words as the known patterns cut it, each word's ids looked up
// among those met lately, or made by merging pairs. `bytepairs.py` describes the functions and what they equal.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <queue>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using byte = uint8_t;
using id = uint32_t;

enum Class : byte { OTHER, LETTER, NUMBER, SPACE };
enum Pattern { GPT2, CL100K };

constexpr int PAGES = 0x1100;      // of 256 code points each
constexpr int LONGEST = 23;        // bytes of a word that is remembered
constexpr int MOST = 9;            // ids of a word that is remembered
constexpr int SETS = 1 << 14;      // of two words each, in the memory of one thread: 2 MiB
constexpr int SHORT = 48;          // bytes of a word whose pairs are searched one by one; above, a queue orders them
constexpr int64_t JOB = 1 << 16;   // bytes that a thread takes at once
constexpr uint32_t NEVER = ~0u;    // the rank of a pair that is not merged

struct Word {  // one cache line
  uint64_t key[3] = {0, 0, 0};  // its bytes, zeros, and in the last byte its length; 0 is no word
  uint32_t count = 0;
  id ids[MOST];
};

struct Merge {
  uint64_t pair = ~0ull;  // left id << 32 | right id
  uint32_t rank = NEVER;
  id merged = 0;
};

inline uint64_t eight(const byte* p) {  // callers pad the text, so that reading past a word is safe
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

inline uint64_t low(int bytes) { return bytes <= 0 ? 0 : bytes >= 8 ? ~0ull : (1ull << 8 * bytes) - 1; }

inline uint64_t mixed(uint64_t v) {
  v ^= v >> 32;
  v *= 0x9E3779B97F4A7C15ull;
  return v ^ v >> 29;
}

struct Piece {  // of one document
  int64_t document, begin, end;
};

}  // namespace

struct Encoder {
  std::vector<Merge> merges;
  uint64_t mask;
  id bytes[256];
  Pattern pattern;
  int digits;                     // most of a number that are one word
  byte ascii[128];
  std::vector<byte> pages[PAGES];  // classes of 256 code points; empty where nobody asked yet
  std::vector<std::vector<Word>> met;  // by each thread

  const Merge* merge(id left, id right) const {
    const uint64_t pair = uint64_t(left) << 32 | right;
    for (uint64_t i = mixed(pair) & mask;; i = (i + 1) & mask)
      if (merges[i].pair == pair || merges[i].pair == ~0ull) return &merges[i];
  }

  // the class of the character at p, and in `bytes` its length
  Class at(const byte* p, int& bytes) const {
    const byte c = *p;
    if (c < 0x80) return bytes = 1, Class(ascii[c]);
    uint32_t point;
    if (c < 0xE0) bytes = 2, point = (c & 0x1F) << 6 | (p[1] & 0x3F);
    else if (c < 0xF0) bytes = 3, point = (c & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    else bytes = 4, point = (c & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
    return Class(pages[point >> 8][point & 0xFF]);
  }

  const byte* run(const byte* p, const byte* end, Class of, int most = -1) const {
    for (int bytes; p < end && most != 0 && at(p, bytes) == of; most--) p += bytes;
    return p;
  }
};

namespace {

inline bool newline(byte c) { return c == '\n' || c == '\r'; }

// 's 't 're 've 'm 'll 'd, for CL100K in either case; p is at the apostrophe. nullptr: none of them
template <Pattern pattern>
const byte* contraction(const byte* p, const byte* end) {
  const auto letter = [&](int64_t i) -> byte {
    if (end - p <= i) return 0;
    return pattern == CL100K && p[i] >= 'A' && p[i] <= 'Z' ? p[i] | 0x20 : p[i];
  };
  const byte a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
  if (pattern == CL100K && a == 0xC5 && b == 0xBF) return p + 3;  // a long s is an s in another case
  return nullptr;
}

// the end of the word that begins at p: the first alternative of the pattern that matches there
template <Pattern pattern>
const byte* word(const Encoder& e, const byte* p, const byte* end) {
  int bytes, after;
  const Class first = e.at(p, bytes);
  if (*p == '\'')
    if (const byte* q = contraction<pattern>(p, end)) return q;
  const byte* rest = p + bytes;
  const Class second = rest < end ? e.at(rest, after) : SPACE;
  if (first == LETTER) return e.run(rest, end, LETTER);
  if (first == NUMBER) return e.run(rest, end, NUMBER, e.digits - 1);
  if (pattern == GPT2) {
    if (first == OTHER) return e.run(rest, end, OTHER);
    if (*p == ' ' && second != SPACE) return e.run(rest, end, second);
  } else {
    if (second == LETTER && !newline(*p)) return e.run(rest, end, LETTER);
    if (first == OTHER || (*p == ' ' && second == OTHER)) {
      const byte* q = e.run(rest, end, OTHER);
      while (q < end && newline(*q)) q++;
      return q;
    }
  }
  const byte *q = p, *last = p, *line = nullptr;  // `last` is where the last space begins, `line` follows a newline
  while (q < end && e.at(q, bytes) == SPACE) {
    last = q;
    if (newline(*q)) line = q + 1;
    q += bytes;
  }
  if (pattern == CL100K && line) return line;
  return q == end || last == p ? q : last;  // a word takes the space before it
}

// `count` ids of single bytes are merged in place; their number then
int merged(const Encoder& e, id* ids, int count) {
  const Merge* found[SHORT];
  for (int i = 0; i + 1 < count; i++) found[i] = e.merge(ids[i], ids[i + 1]);
  while (count > 1) {
    int best = 0;
    for (int i = 1; i + 1 < count; i++)
      if (found[i]->rank < found[best]->rank) best = i;
    if (found[best]->rank == NEVER) break;
    ids[best] = found[best]->merged;
    count--;
    for (int i = best + 1; i < count; i++) ids[i] = ids[i + 1];
    for (int i = best + 1; i + 1 < count; i++) found[i] = found[i + 1];
    if (best > 0) found[best - 1] = e.merge(ids[best - 1], ids[best]);
    if (best + 1 < count) found[best] = e.merge(ids[best], ids[best + 1]);
  }
  return count;
}

// the same for a long word, in n log n steps
int64_t merged_long(const Encoder& e, id* ids, int64_t count) {
  std::vector<uint32_t> before(count), after(count);
  for (int64_t i = 0; i < count; i++) before[i] = i - 1, after[i] = i + 1;
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<uint64_t>> queue;  // rank << 32 | place
  const auto offer = [&](uint32_t i) {
    if (after[i] < count)
      if (const Merge* m = e.merge(ids[i], ids[after[i]]); m->rank != NEVER) queue.push(uint64_t(m->rank) << 32 | i);
  };
  for (int64_t i = 0; i + 1 < count; i++) offer(i);
  while (!queue.empty()) {
    const uint32_t i = uint32_t(queue.top()), rank = queue.top() >> 32;
    queue.pop();
    const uint32_t j = after[i];
    if (j >= count) continue;  // nothing follows, or it is gone itself
    const Merge* m = e.merge(ids[i], ids[j]);
    if (m->rank != rank) continue;  // the pair is not what it was
    ids[i] = m->merged;
    after[i] = after[j];
    after[j] = NEVER;
    if (after[i] < count) before[after[i]] = i;
    offer(i);
    if (i) offer(before[i]);
  }
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i = after[i]) ids[kept++] = ids[i];
  return kept;
}

int64_t pairs(const Encoder& e, const byte* p, int64_t length, id* out) {
  for (int64_t i = 0; i < length; i++) out[i] = e.bytes[p[i]];
  return length <= SHORT ? merged(e, out, int(length)) : merged_long(e, out, length);
}

// the ids of text[begin, end), at most one a byte
template <Pattern pattern>
int64_t encoded(const Encoder& e, Word* met, const byte* p, const byte* end, id* out) {
  id* const start = out;
  for (const byte* q; p < end; p = q) {
    q = word<pattern>(e, p, end);
    const int64_t length = q - p;
    if (length > LONGEST) {
      out += pairs(e, p, length, out);
      continue;
    }
    const uint64_t a = eight(p) & low(int(length)), b = eight(p + 8) & low(int(length) - 8),
                   c = (eight(p + 16) & low(int(length) - 16)) | uint64_t(length) << 56;
    Word* w = met + 2 * (mixed(mixed(a ^ c) + b) >> 32 & (SETS - 1));
    if (w->key[0] != a || w->key[1] != b || w->key[2] != c) {
      if (w[1].key[0] == a && w[1].key[1] == b && w[1].key[2] == c) {
        w++;
      } else {
        id fresh[LONGEST];
        const int64_t count = pairs(e, p, length, fresh);
        if (count > MOST) {
          std::memcpy(out, fresh, count * sizeof(id));
          out += count;
          continue;
        }
        w[1] = w[0];
        w->key[0] = a, w->key[1] = b, w->key[2] = c, w->count = uint32_t(count);
        std::memcpy(w->ids, fresh, count * sizeof(id));
      }
    }
    for (uint32_t i = 0; i < w->count; i++) *out++ = w->ids[i];
  }
  return out - start;
}

// the first place at or after `from` where every pattern ends a word: before a space, or where letters or numbers end
const byte* cut(const Encoder& e, const byte* from, const byte* end) {
  while (from < end && (*from & 0xC0) == 0x80) from++;
  Class before = SPACE;
  for (int bytes; from < end; from += bytes) {
    const Class here = e.at(from, bytes);
    if (before != SPACE && *from == ' ') return from;
    if ((before == LETTER || before == NUMBER) && (here == SPACE || (here == OTHER && *from != '\''))) return from;
    before = here;
  }
  return end;
}

// cuts documents into pieces and deals them out in jobs of about JOB bytes: job j is pieces [jobs[j], jobs[j + 1])
std::vector<int64_t> shared_out(const Encoder& e, const byte* text, const int64_t* ends, int64_t documents,
                                std::vector<Piece>& pieces) {
  std::vector<int64_t> jobs = {0};
  int64_t begin = 0, size = 0;
  for (int64_t d = 0; d < documents; d++)
    while (begin < ends[d]) {
      const bool whole = ends[d] - begin <= JOB;
      const int64_t end = whole ? ends[d] : cut(e, text + begin + JOB, text + ends[d]) - text;
      pieces.push_back({d, begin, end});
      size += end - begin;
      begin = end;
      if (size >= JOB || end == ends[documents - 1]) jobs.push_back(int64_t(pieces.size())), size = 0;
    }
  return jobs;
}

}  // namespace

extern "C" {

Encoder* make(const id* bytes, const id* merges, int64_t count, const byte* ascii, int pattern, int digits) {
  auto* e = new Encoder;
  uint64_t size = 64;
  while (size < uint64_t(2 * count)) size *= 2;
  e->mask = size - 1;
  e->merges.resize(size);
  for (int64_t i = 0; i < count; i++, merges += 3) {
    Merge* m = const_cast<Merge*>(e->merge(merges[0], merges[1]));
    *m = {uint64_t(merges[0]) << 32 | merges[1], uint32_t(i), merges[2]};
  }
  std::copy(bytes, bytes + 256, e->bytes);
  std::copy(ascii, ascii + 128, e->ascii);
  e->pattern = Pattern(pattern);
  e->digits = digits;
  return e;
}

void release(Encoder* e) { delete e; }

void teach(Encoder* e, int page, const byte* classes) { e->pages[page].assign(classes, classes + 256); }

// the pages that the text needs and nobody taught yet
int64_t unknown(const Encoder* e, const byte* p, int64_t length, int* pages) {
  std::vector<bool> seen(PAGES);
  int64_t found = 0;
  for (const byte* end = p + length; p < end;) {
    if (*p < 0xC0) {
      p += end - p >= 8 && !(eight(p) & 0x8080808080808080ull) ? 8 : 1;
      continue;
    }
    const int page = *p < 0xE0   ? (*p & 0x1F) >> 2
                     : *p < 0xF0 ? (*p & 0x0F) << 4 | (p[1] & 0x3F) >> 2
                                 : (*p & 0x07) << 10 | (p[1] & 0x3F) << 4 | (p[2] & 0x3F) >> 2;
    p += 2;
    if (!seen[page] && e->pages[page].empty()) pages[found++] = page;
    seen[page] = true;
  }
  return found;
}

// documents lie in the text one after the other, each to its end; `ids` has room for one a byte -> how many there are,
// or -1 when memory ran out. Only one call at a time.
int64_t encode(Encoder* e, const byte* text, const int64_t* ends, int64_t documents, int threads, id* ids,
               int64_t* counts) {
  try {
    std::vector<Piece> pieces;
    const std::vector<int64_t> jobs = shared_out(*e, text, ends, documents, pieces);
    std::vector<int64_t> made(pieces.size());
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    while (int(e->met.size()) < threads) e->met.emplace_back(2 * SETS);
    const auto work = [&](Word* met) {
      const auto encode_piece = e->pattern == GPT2 ? encoded<GPT2> : encoded<CL100K>;
      try {
        for (size_t j; (j = next++) + 1 < jobs.size();)
          for (int64_t i = jobs[j]; i < jobs[j + 1]; i++)
            made[i] = encode_piece(*e, met, text + pieces[i].begin, text + pieces[i].end, ids + pieces[i].begin);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
      for (int t = 1; t < threads && t + 1 < int(jobs.size()); t++) others.emplace_back(work, e->met[t].data());
    } catch (const std::system_error&) {  // the system grants no more threads; these do it
    }
    work(e->met[0].data());
    for (auto& other : others) other.join();
    if (failed) return -1;
    std::fill(counts, counts + documents, 0);
    int64_t total = 0;
    for (size_t i = 0; i < pieces.size(); i++) {
      std::memmove(ids + total, ids + pieces[i].begin, made[i] * sizeof(id));
      total += made[i];
      counts[pieces[i].document] += made[i];
    }
    return total;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

}  // extern "C"
