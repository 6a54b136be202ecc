// The broker's memory: tokens that have not been used yet, and grants that are bound to a
// connection. Every lookup is O(log n), because one process may hold thousands.
//
// No input and no output except the packets of events; guarded by the broker's lock.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/file_descriptor.h"
#include "base/places.h"
#include "front/broker/broker.h"

namespace pmfs::front {

class ClaimTable {
public:
    struct Token {
        BrokerClaim claim;
        Caller taker;
    };

    std::size_t count() const { return entries_.size(); }
    bool any_token() const { return !waiting_.empty(); }

    // A token for the claim.  EAGAIN: too many wait; EIO: no random numbers.
    Result<BrokerToken> issue(const BrokerClaim &claim, const Caller &taker,
                              std::uint64_t lapses_ns);
    // Uses up the token with these bytes; nothing: there is none.
    std::optional<Token> take(const std::uint8_t (&secret)[16]);
    // The claims of the tokens that were not shown in time.
    std::vector<BrokerClaim> lapse(std::uint64_t now_ns);

    // Binds the claim to the connection.  Gives the claim's number, never 0.
    std::uint64_t bind(const BrokerClaim &claim, std::uint64_t connection);
    // The bound claim of that number, if it is the connection's.
    std::optional<BrokerClaim> of(std::uint64_t connection, std::uint64_t number) const;
    // Sets where the events of a claim are sent; its former channel hangs up.
    void set_channel(std::uint64_t number, FileDescriptor channel);
    // A packet for a peer that does not read is lost.
    void send(HandleId handle, GrantId grant, const void *packet, std::size_t size) const;

    // The grant has ended: its channel hangs up, its token is dropped.
    void end(HandleId handle, GrantId grant);
    // The handle was closed.  Gives the claims of its unused tokens.
    std::vector<BrokerClaim> end_handle(HandleId handle);
    // The connection was closed.  Gives what it held.
    std::vector<BrokerClaim> end_connection(std::uint64_t connection);
    // Everything.  Gives the claims of tokens, and those of connections that map nothing.
    std::vector<BrokerClaim> end_all();

private:
    struct Entry {
        BrokerClaim claim;
        std::uint64_t connection = 0;  // 0: a token that waits, with what follows
        Caller taker;
        BrokerToken secret;
        std::uint64_t lapses_ns = 0;
        FileDescriptor channel;  // invalid until the peer asks for events
    };
    using Key = std::pair<HandleId, GrantId>;
    void erase(std::uint64_t number);

    static constexpr std::size_t kTokensMax = 1024;
    static constexpr std::size_t kTokensShare = 128;

    std::uint64_t next_ = 1;
    std::unordered_map<std::uint64_t, Entry> entries_;  // by number
    std::map<Key, std::uint64_t> by_grant_;
    std::set<std::pair<std::uint64_t, std::uint64_t>> by_connection_;  // connection, number
    std::set<std::uint64_t> waiting_;  // tokens; a smaller number lapses earlier
    std::unordered_map<std::uint64_t, std::uint64_t> by_secret_;  // first half -> number
    Places tokens_{kTokensMax};
};

}  // namespace pmfs::front
