"""placeholder"""


class Operation:
    def __init__(self):
        self.end = float("inf")
        self.result = None
        self.value = self.expected = self.start = self.kind = self.key = self.client = 0
