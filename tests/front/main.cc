// The front suite: what the dispatcher makes of requests as bytes, good ones and others.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
