/* Lets a Ctrl-C arrive right before the n-th bytecode from now on. Compiled and loaded by interrupts.py.
 *
 * In C, because a trace function in Python would run into the signal itself: the interpreter looks for signals between
 * bytecodes, also between those of the trace function. So it finds this one where it would find any that came at that time.
 */
#include <Python.h>
#include <frameobject.h>

static long long left;

static int count(PyObject *nothing, PyFrameObject *frame, int what, PyObject *argument) {
    (void)nothing;
    (void)argument;
    if (what == PyTrace_OPCODE && --left == 0) PyErr_SetInterrupt();
    /* Off for frames that were entered before. */
    return PyObject_SetAttrString((PyObject *)frame, "f_trace_opcodes", Py_True);
}

/* Begin to count; frames that are entered from now on count. */
void wdkm_interrupt_at(long long number) {
    left = number;
    PyEval_SetTrace(count, NULL);
}

/* Stop counting, and return how many bytecodes were left. */
long long wdkm_left(void) {
    PyEval_SetTrace(NULL, NULL);
    return left;
}
