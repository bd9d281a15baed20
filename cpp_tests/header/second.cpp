// The same as C++.
#include "second.c"
