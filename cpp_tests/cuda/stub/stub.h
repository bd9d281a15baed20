/* What the tests ask of the stub beyond the driver's own functions. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/* A stream does nothing from now on until it is let go. NULL is the default stream. */
void stub_hold(void *stream);
void stub_let_go(void *stream);

/* How often a function of the driver was called; NULL: all functions together. */
unsigned long stub_calls(const char *function);

/* The function fails with the code from now on; 0: no more. NULL: all functions do. */
void stub_fail(const char *function, int code);

/* The launches that run from now on do nothing but fail, as one does that reads where it must not: so does all that follows in
 * the context. 0: no more. */
void stub_fault(int code);

/* Launches and events are forgotten from now on, at no cost, so that all that a call costs is the library's; 0: no more. */
void stub_drop(int is_on);

#ifdef __cplusplus
}
#endif
