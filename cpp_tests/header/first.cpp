// The same as C++.
#include "first.c"
