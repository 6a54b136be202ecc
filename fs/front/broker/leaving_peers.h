// Connections that the broker has closed while an answer was unread.  The descriptor that may be in
// it stays on its way, charged to the server's user, until the peer reads it or closes its end.  So
// the socket stays open here, to tell when that happens, and the connection's place stays taken.
//
// Guarded by the broker's lock.
#pragma once
#include <sys/socket.h>

#include <list>
#include <vector>

#include "base/file_descriptor.h"
#include "front/broker/broker_socket.h"

namespace pmfs::front {

class LeavingPeers {
public:
    bool empty() const { return sockets_.empty(); }
    void clear() { sockets_.clear(); }
    void add(FileDescriptor socket, uid_t uid) {
        ::shutdown(socket.get(), SHUT_RDWR);
        sockets_.push_back({std::move(socket), uid});
    }
    // Those that have read their answers leave: their users.
    std::vector<uid_t> let_go() {
        std::vector<uid_t> gone;
        sockets_.remove_if([&gone](const Leaving &one) {
            if (has_unread(one.socket.get())) return false;
            gone.push_back(one.uid);
            return true;
        });
        return gone;
    }

private:
    struct Leaving {
        FileDescriptor socket;
        uid_t uid = 0;
    };
    std::list<Leaving> sockets_;
};

}  // namespace pmfs::front
