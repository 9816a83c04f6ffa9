import pickle

from idiolect.errors import Exit, UserError, missing_extra, nearest


def test_exit_codes_are_those_of_the_documentation():
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "BUG": 1,
        "BAD_INPUT": 2,
        "IN_USE": 3,
        "CANNOT_WRITE": 4,
        "DIVERGED": 5,
        "NO_SANDBOX": 6,
        "OUT_OF_MEMORY": 7,
        "CHECK_FAILED": 8,
        "STOPPED": 75,
        "INTERRUPTED": 130,
    }


def test_a_user_error_is_two_lines_and_bad_input_unless_said_otherwise():
    error = UserError("the corpus is empty", "give a file with text")
    assert str(error) == "the corpus is empty\ngive a file with text"
    assert error.code is Exit.BAD_INPUT


def test_a_user_error_comes_through_a_worker_process_with_its_code():
    error = pickle.loads(pickle.dumps(UserError("what", "mend", Exit.IN_USE)))
    assert (error.what, error.mend, error.code) == ("what", "mend", Exit.IN_USE)


def test_nearest_knows_typing_errors_and_initials_and_is_silent_otherwise():
    known = ["learning_rate", "layers", "weight_decay"]
    assert nearest("learning_rat", known) == ' (did you mean "learning_rate"?)'
    assert nearest("lr", known) == ' (did you mean "learning_rate"?)'
    assert nearest("wd", known) == ' (did you mean "weight_decay"?)'
    assert nearest("zzz", known) == ""


def test_a_missing_extra_is_named_with_what_installs_it():
    error = missing_extra("data", "zstandard", "reading .zst files")
    assert str(error) == (
        "reading .zst files needs the package zstandard, which is not installed\n"
        "install it with: pip install 'idiolect[data]'"
    )
