"""The error that a person can mend."""


class UserError(Exception):
    """Something outside the code is wrong: a recipe, a picture, a bucket, a server.

    Its message is one clear sentence that says what is wrong and what to do. The verbs print it without a
    traceback and exit with 2; everything else that is raised is a defect of srcluster and keeps its traceback.
    """
