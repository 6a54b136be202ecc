// libfuse's low-level interface, in the one version that pmfs speaks.
#pragma once
#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
