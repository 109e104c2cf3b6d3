"""What functions would read if they were called now: a walk over everything that they can reach.

A compiled function holds what its callables read while they were traced. It may be used again only if they would read
the same now. :func:`snapshot` writes down all that a call could read, as a list of tokens that compares with an earlier
one. It never calls code of the user: no ``__eq__``, ``__hash__``, ``__repr__``, property or overridden method.

**Why equal tokens mean equal reads.** A function reads its code, its defaults, its closure, the globals that its code
names, and from there the parts of each object that it comes across. The walk visits all of these. Of each object it
writes down what identifies it or all that is stored in it, and it visits what that refers to. Every step of the walk
depends only on what was written down before, so two walks with equal tokens have visited the same structure, with the
same sharing, and have found the same values, the same living arrays and classes, and equal code in it. It rests on
these assumptions:

* Code of the packages in ``_code.CONSTANT`` does not change and has no state of its own, apart from ``_code.STATEFUL``.
  Their functions' closures, and objects of their classes, are visited as all others are.
* Attributes of modules, of classes of the user, and of their objects are read by name: by a name that occurs in the
  code that was visited, a special one (``__call__``), one that a base class of a constant package has, or one of
  ``_code.PROTOCOL``. All attributes are visited where code can compute names (``getattr``, ``vars``, ``__dict__``),
  and those of objects that a package knows: dataclasses, pytrees, objects of its own classes.
* An object stores what its class declares: slots, ``__dict__``, and the contents of the built-in types that
  ``_objects`` lists. Storage of any other origin cannot be seen, and puts the walk in doubt.
* Documentation, annotations and names of functions and classes are not read as data.

``_walk`` is the walk itself. ``_code``, ``_classes`` and ``_objects`` tell it how to read what it meets: functions;
classes and modules; all other objects.
"""

from jaxsolve._capture._walk import Same, Snapshot, are_same, reached, snapshot

__all__ = ["Same", "Snapshot", "are_same", "reached", "snapshot"]
