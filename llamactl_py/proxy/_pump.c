/* Passes chunks of streams from socket to socket: what `Exchange.pass_chunk` does, for all streams that have one, in one turn.

A lane leads from a backend's socket to a client's. A turn reads once from every lane that has something. If that is exactly one
chunk of an HTTP body, it is sent on as it is, and remembered in the lane's list; everything else is handed to Python as it was
read. Nothing is called back and nothing is freed within a turn. Linux only (epoll); the stable ABI of Python 3.11. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOURCE
#define SOURCE "" /* the digest of this file, so that a library that is older than it can be told */
#endif

enum { BATCH = 256, ROOM = 1 << 14, SHORTEST_CHUNK = 6 /* "1\r\nx\r\n" */, MOST_DIGITS = 4 };

struct lane {
    int sink;        /* ours: a duplicate, so that the number stays that of this client however the connection is closed */
    PyObject *owner; /* whom it is for */
    PyObject *passed; /* list of bytes: the chunks that were passed on since somebody last looked */
};

typedef struct {
    PyObject_HEAD
    int loop;
    Py_ssize_t longest, most;
    struct lane **lanes; /* by the number of the source */
    int room;
} Pump;

static PyObject *os_error(void) { return PyErr_SetFromErrno(PyExc_OSError); }

static struct lane *lane_of(Pump *pump, int source) { return source >= 0 && source < pump->room ? pump->lanes[source] : NULL; }

/* ---- what one turn does */

/* Is `text` exactly one chunk, its size in as few small hex digits as there are? That is the one way servers write it. */
static bool is_one_chunk(const char *text, Py_ssize_t size, Py_ssize_t longest) {
    if (size < SHORTEST_CHUNK || size > longest || text[size - 2] != '\r' || text[size - 1] != '\n') return false;
    const char *end = memchr(text, '\r', MOST_DIGITS + 1);
    if (!end || end == text || end[1] != '\n' || *text == '0') return false;
    Py_ssize_t payload = 0;
    for (const char *at = text; at < end; at++) {
        if (*at >= '0' && *at <= '9') payload = payload * 16 + (*at - '0');
        else if (*at >= 'a' && *at <= 'f') payload = payload * 16 + (*at - 'a' + 10);
        else return false;
    }
    return (end - text) + 2 + payload + 2 == size;
}

/* One more (owner, data, sent) for Python: see `turn`. */
static bool hand_over(PyObject *left, struct lane *lane, PyObject *data, Py_ssize_t sent) {
    PyObject *item = Py_BuildValue("(OOn)", lane->owner, data, sent);
    bool is_kept = item && !PyList_Append(left, item);
    Py_XDECREF(item);
    return is_kept;
}

static bool serve(Pump *pump, int source, PyObject *left) {
    char text[ROOM];
    struct lane *lane = lane_of(pump, source);
    if (!lane) return true;
    ssize_t size = recv(source, text, ROOM, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (size < 0) return hand_over(left, lane, Py_None, errno);
    PyObject *data = PyBytes_FromStringAndSize(text, size);
    if (!data) return false;
    bool is_kept;
    if (!is_one_chunk(text, size, pump->longest) || PyList_Size(lane->passed) >= pump->most) {
        is_kept = hand_over(left, lane, data, -1);
    } else {
        ssize_t sent = send(lane->sink, text, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        is_kept = !PyList_Append(lane->passed, data) && (sent == size || hand_over(left, lane, data, sent < 0 ? 0 : sent));
    }
    Py_DECREF(data);
    return is_kept;
}

PyDoc_STRVAR(turn_doc, "turn() -> list[tuple[object, bytes | None, int]]\n\n"
    "Read once from every lane that has something, and pass on what is a chunk by itself. Gives the rest as (owner, data, sent):\n"
    "sent -1 where nothing was passed on, else how many bytes of that chunk the client has taken (the chunk counts as passed\n"
    "on). Data b'' is the end of the source; with None, sent is an errno.");
static PyObject *turn(Pump *pump, PyObject *Py_UNUSED(none)) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(pump->loop, events, BATCH, 0);
    PyObject *left = PyList_New(0);
    for (int i = 0; left && i < ready; i++)
        if (!serve(pump, events[i].data.fd, left)) Py_CLEAR(left);
    for (int i = 0; !left && i < ready; i++) { /* no memory: what was read is lost, and no stream may go on as if it were whole */
        struct lane *lane = lane_of(pump, events[i].data.fd);
        if (lane) shutdown(lane->sink, SHUT_RDWR);
    }
    return left;
}

/* ---- who takes part */

PyDoc_STRVAR(join_doc, "join(source, sink, owner, passed)\n\n"
    "Pass chunks from the socket source to the socket sink (file descriptors), and append them to the list passed. Raises\n"
    "OSError.");
static PyObject *join(Pump *pump, PyObject *words) {
    int source, sink;
    PyObject *owner, *passed;
    if (!PyArg_ParseTuple(words, "iiOO", &source, &sink, &owner, &passed)) return NULL;
    if (source < 0 || !PyList_Check(passed) || lane_of(pump, source)) {
        PyErr_Format(PyExc_ValueError, "%d is no source, or one already, or there is no list", source);
        return NULL;
    }
    if (fcntl(source, F_GETFD) < 0) return os_error();
    if (source >= pump->room) {
        int room = source + 64;
        struct lane **lanes = realloc(pump->lanes, (size_t)room * sizeof *lanes);
        if (!lanes) return PyErr_NoMemory();
        memset(lanes + pump->room, 0, (size_t)(room - pump->room) * sizeof *lanes);
        pump->lanes = lanes;
        pump->room = room;
    }
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane) return PyErr_NoMemory();
    struct epoll_event event = {.events = EPOLLIN, .data.fd = source};
    lane->sink = fcntl(sink, F_DUPFD_CLOEXEC, 0);
    if (lane->sink < 0 || epoll_ctl(pump->loop, EPOLL_CTL_ADD, source, &event)) {
        os_error();
        if (lane->sink >= 0) close(lane->sink);
        free(lane);
        return NULL;
    }
    Py_INCREF(lane->owner = owner);
    Py_INCREF(lane->passed = passed);
    pump->lanes[source] = lane;
    Py_RETURN_NONE;
}

static void drop(Pump *pump, int source) {
    struct lane *lane = lane_of(pump, source);
    if (!lane) return;
    pump->lanes[source] = NULL;
    epoll_ctl(pump->loop, EPOLL_CTL_DEL, source, NULL); /* fails where it was closed, which took it out */
    close(lane->sink);
    Py_DECREF(lane->owner);
    Py_DECREF(lane->passed);
    free(lane);
}

PyDoc_STRVAR(leave_doc, "leave(source)\n\nForget that lane, if there is one. Call it before source is closed.");
static PyObject *leave(Pump *pump, PyObject *number) {
    long source = PyLong_AsLong(number);
    if (source == -1 && PyErr_Occurred()) return NULL;
    if (source < pump->room) drop(pump, (int)source);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc, "fileno() -> int\n\nReadable when a turn would do something.");
static PyObject *number(Pump *pump, PyObject *Py_UNUSED(none)) { return PyLong_FromLong(pump->loop); }

/* ---- the type */

static PyObject *create(PyTypeObject *type, PyObject *words, PyObject *named) {
    static char *names[] = {"longest", "most", NULL};
    Py_ssize_t longest, most;
    if (!PyArg_ParseTupleAndKeywords(words, named, "nn", names, &longest, &most)) return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Pump *pump = (Pump *)allocate(type, 0);
    if (!pump) return NULL;
    pump->longest = longest < ROOM ? longest : ROOM - 1;
    pump->most = most;
    pump->loop = epoll_create1(EPOLL_CLOEXEC);
    if (pump->loop >= 0) return (PyObject *)pump;
    os_error();
    Py_DECREF(pump);
    return NULL;
}

static void destroy(Pump *pump) {
    PyTypeObject *type = Py_TYPE((PyObject *)pump);
    for (int source = 0; source < pump->room; source++) drop(pump, source);
    free(pump->lanes);
    if (pump->loop >= 0) close(pump->loop);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(pump);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"turn", (PyCFunction)turn, METH_NOARGS, turn_doc},
    {"join", (PyCFunction)join, METH_VARARGS, join_doc},
    {"leave", (PyCFunction)leave, METH_O, leave_doc},
    {"fileno", (PyCFunction)number, METH_NOARGS, fileno_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(pump_doc, "Pump(longest, most)\n\nPasses on chunks of up to *longest* bytes, *most* of a stream before Python looks again.");
static PyType_Slot slots[] = {
    {Py_tp_new, create}, {Py_tp_dealloc, destroy}, {Py_tp_methods, methods}, {Py_tp_doc, (void *)pump_doc}, {0, NULL},
};
static PyType_Spec spec = {"llamactl_py.proxy._pump.Pump", sizeof(Pump), 0, Py_TPFLAGS_DEFAULT, slots};

static int fill(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    int failed = !type || PyModule_AddObjectRef(module, "Pump", type) || PyModule_AddStringConstant(module, "SOURCE", SOURCE);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_pump", "Compiled: passes on chunks of streams.", 0, NULL, module_slots, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__pump(void) { return PyModuleDef_Init(&definition); }
