// Tells the service manager that the filesystem can be used: the protocol of sd_notify(3), for a
// unit with Type=notify.
#pragma once
#include "base/file_descriptor.h"

namespace pmfs::front {

class Readiness {
public:
    // Connects to the socket that $NOTIFY_SOCKET names, before the server gives up its rights.
    // Without one, or when it cannot be reached, nothing is sent.
    Readiness();
    void tell() const;

private:
    FileDescriptor socket_;
};

}  // namespace pmfs::front
