// The kernel's virtio headers, without a function of old rings that C++ does not compile.
#pragma once
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
