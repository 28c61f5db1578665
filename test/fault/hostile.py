"""Another user who may write into incoming, at work: takes the place of what waits there.

Usage: hostile.py swap|write DIRECTORY. `swap` says "at work" and goes on until it is killed; `write` does what it is told.
"""
import os
import sys

how, directory = sys.argv[1:]
garbage = b"G" * (1024 * 1024)
held = []


def aside(name):
    return os.path.join(directory, ".aside-" + name)


def make(path):
    with open(path, "wb") as file:
        file.write(garbage)
    os.chmod(path, 0o666)


def swap(name):
    """Puts garbage in the place of a file for a moment, then the file back."""
    path, other = os.path.join(directory, name), os.path.join(directory, ".garbage")
    make(other)
    os.rename(path, aside(name))
    os.rename(other, path)
    # A claim of an older version stays away for a while.
    if not name.startswith("."):
        put_back(name)


def put_back(name):
    # Never over a file that was delivered meanwhile: what lies in its place is garbage, or was taken.
    os.rename(aside(name), os.path.join(directory, name))


def write(name):
    """A whole copy of the file under its name, of our own, that we go on writing to."""
    path, other = os.path.join(directory, name), os.path.join(directory, ".copy")
    with open(path, "rb") as file:
        content = file.read()
    descriptor = os.open(other, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(descriptor, content)
    os.rename(path, aside(name))
    os.rename(other, path)
    held.append(descriptor)


def spoil():
    for descriptor in held:
        os.pwrite(descriptor, garbage[:4096], 8192)
        os.ftruncate(descriptor, 16384)
        os.ftruncate(descriptor, len(garbage))


def race():
    """As quick as it can, until it is killed."""
    print("at work", flush=True)
    while True:
        for name in os.listdir(directory):
            try:
                if name.startswith(".aside-"):
                    put_back(name[len(".aside-"):])
                elif not name.startswith(".") or name.startswith(".walwarden-"):
                    swap(name)
            except FileNotFoundError:
                pass


def obey():
    """A line on stdin says what is next; a line on stdout says that it is done."""
    for line in sys.stdin:
        if line == "hold\n":
            for name in os.listdir(directory):
                if not name.startswith("."):
                    write(name)
        else:
            spoil()
        print(line, end="", flush=True)


race() if how == "swap" else obey()
