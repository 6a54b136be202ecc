// The broker: gives descriptors of the device to programs that hold a grant, and ends the grant
// when these programs end.
//
// A process that can open the device can read and write all of it. So the device is given only to
// root and to members of one group that the administrator names (`-o group=NAME`; none by default),
// and a writable descriptor of an image file only to root. The kernel tells who is at the other end
// of the socket. A token that can be used once, and that the grant's ioctl returned, proves that
// this process holds the grant. docs/security.md says what the holder of a descriptor can do.
//
// Grants are bound to a connection, perhaps thousands of them: when it closes, or its process
// exits, they are lost. Events of a grant (its lease is to be given back, it has ended) are sent
// over a channel that its holder asks for. A grant without a mapping may be bound only for these
// events, by any user.
//
// One thread (epoll). No call waits for it, except stop(). It is never called with the volume's
// lock held, and calls nothing with its own lock held.
#pragma once
#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "volume/volume.h"

namespace pmfs::front {

struct BrokerOptions {
    std::string directory;       // empty: $PMFS_RUN_DIR, else /run/pmfs
    std::optional<gid_t> group;  // its members may map; none: root only
    // A process has one connection for all its grants; each takes two descriptors.  An eighth is
    // reserved for root.  Users that may not map get an eighth of the share of others.
    unsigned connections_max = 4096;
    unsigned connections_per_uid_max = 2048;
    unsigned token_seconds = 10;                   // from the ioctl to the connection
    std::function<void(const std::string &)> log;  // one sentence; may be called by any thread
};

struct BrokerClaim {  // the grant of a token or a connection
    HandleId handle = 0;
    GrantId grant = 0;
    bool may_store = false;
    bool maps = false;       // otherwise the connection brings only events
    bool hand_over = false;  // the process that shows the token becomes the holder
};

struct BrokerToken {
    std::uint8_t bytes[16] = {};
};

class Broker {
public:
    // Makes the directory (0755) if necessary, and listens there on UUID.sock.  EOPNOTSUPP: the
    // region has no descriptor to give; EPERM: users other than root may write to the directory.
    static Result<std::unique_ptr<Broker>> start(Volume &volume, BrokerOptions options);
    ~Broker();  // stops: cuts all connections and removes the socket; the grants are dropped

    const std::string &socket_path() const;
    std::uint64_t epoch() const;  // random, chosen at start

    // Called before a grant is taken.  EACCES: the socket would certainly refuse this caller.
    // (Only the socket knows its groups.)
    Result<> may_map(const Caller &caller) const;
    // True for root and for a member of the group; false also when that is not known.  The caller
    // must be waiting for the answer to its request, so that it is still the same process.
    bool is_trusted(const Caller &caller) const;
    // A token for a grant that was just taken.  EAGAIN: too many are waiting.
    Result<BrokerToken> issue(const BrokerClaim &claim, const Caller &taker);
    // The grant was given back, or its handle closed: drops tokens, closes connections.
    void grant_released(HandleId handle, GrantId grant);
    void handle_released(HandleId handle);

private:
    class Impl;
    explicit Broker(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace pmfs::front
