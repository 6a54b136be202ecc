// The broker's indexes: see claim_table.h.
#include "front/broker/claim_table.h"

#include <sys/random.h>
#include <sys/socket.h>

#include <cstring>

#include "base/blocking.h"

namespace pmfs::front {
namespace {

// In constant time, because it is a secret.
bool equal(const std::uint8_t (&a)[16], const std::uint8_t (&b)[16]) {
    unsigned different = 0;
    for (unsigned i = 0; i < 16; i++) different |= static_cast<unsigned>(a[i] ^ b[i]);
    return different == 0;
}

// Half of the secret finds the entry; the other half is long enough not to be guessed.
std::uint64_t first_half(const std::uint8_t (&secret)[16]) {
    std::uint64_t half;
    std::memcpy(&half, secret, sizeof half);
    return half;
}

}  // namespace

Result<BrokerToken> ClaimTable::issue(const BrokerClaim &claim, const Caller &taker,
                                      std::uint64_t lapses_ns) {
    BrokerToken secret;
    if (::getrandom(secret.bytes, sizeof secret.bytes, 0) != sizeof secret.bytes)
        return Error(EIO, "the kernel provides no random numbers");
    if (by_secret_.contains(first_half(secret.bytes)) ||
        tokens_.take(taker.uid, kTokensShare) != Places::Taken::yes)
        return Error(EAGAIN, "too many grants are waiting for their connection to the broker");
    const std::uint64_t number = next_++;
    Entry entry;
    entry.claim = claim;
    entry.taker = taker;
    entry.secret = secret;
    entry.lapses_ns = lapses_ns;
    entries_.emplace(number, std::move(entry));
    by_grant_[{claim.handle, claim.grant}] = number;
    waiting_.insert(number);
    by_secret_.emplace(first_half(secret.bytes), number);
    return secret;
}

std::optional<ClaimTable::Token> ClaimTable::take(const std::uint8_t (&secret)[16]) {
    const auto found = by_secret_.find(first_half(secret));
    if (found == by_secret_.end()) return std::nullopt;
    const std::uint64_t number = found->second;
    const Entry &entry = entries_.at(number);
    if (!equal(entry.secret.bytes, secret)) return std::nullopt;
    const Token token{entry.claim, entry.taker};
    erase(number);
    return token;
}

std::vector<BrokerClaim> ClaimTable::lapse(std::uint64_t now_ns) {
    std::vector<BrokerClaim> lapsed;
    while (!waiting_.empty()) {
        const std::uint64_t number = *waiting_.begin();
        const Entry &entry = entries_.at(number);
        if (entry.lapses_ns > now_ns) break;
        lapsed.push_back(entry.claim);
        erase(number);
    }
    return lapsed;
}

std::uint64_t ClaimTable::bind(const BrokerClaim &claim, std::uint64_t connection) {
    const std::uint64_t number = next_++;
    Entry entry;
    entry.claim = claim;
    entry.connection = connection;
    entries_.emplace(number, std::move(entry));
    by_grant_[{claim.handle, claim.grant}] = number;
    by_connection_.emplace(connection, number);
    return number;
}

std::optional<BrokerClaim> ClaimTable::of(std::uint64_t connection, std::uint64_t number) const {
    const auto found = entries_.find(number);
    if (connection == 0 || found == entries_.end() || found->second.connection != connection)
        return std::nullopt;
    return found->second.claim;
}

void ClaimTable::set_channel(std::uint64_t number, FileDescriptor channel) {
    const auto found = entries_.find(number);
    if (found != entries_.end()) found->second.channel = std::move(channel);
}

void ClaimTable::send(HandleId handle, GrantId grant, const void *packet, std::size_t size) const {
    const auto found = by_grant_.find({handle, grant});
    if (found == by_grant_.end()) return;
    may_block("send to a holder");
    const FileDescriptor &channel = entries_.at(found->second).channel;
    if (channel.ok()) (void)!::send(channel.get(), packet, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void ClaimTable::erase(std::uint64_t number) {
    const auto found = entries_.find(number);
    const Entry &entry = found->second;
    if (entry.connection != 0) {
        by_connection_.erase({entry.connection, number});
    } else {
        waiting_.erase(number);
        by_secret_.erase(first_half(entry.secret.bytes));
        tokens_.give_back(entry.taker.uid);
    }
    const auto key = by_grant_.find({entry.claim.handle, entry.claim.grant});
    if (key != by_grant_.end() && key->second == number) by_grant_.erase(key);
    entries_.erase(found);
}

void ClaimTable::end(HandleId handle, GrantId grant) {
    const auto found = by_grant_.find({handle, grant});
    if (found != by_grant_.end()) erase(found->second);
}

std::vector<BrokerClaim> ClaimTable::end_handle(HandleId handle) {
    std::vector<BrokerClaim> unused;
    for (;;) {
        const auto found = by_grant_.lower_bound({handle, 0});
        if (found == by_grant_.end() || found->first.first != handle) return unused;
        const std::uint64_t number = found->second;
        const Entry &entry = entries_.at(number);
        if (entry.connection == 0) unused.push_back(entry.claim);
        erase(number);
    }
}

std::vector<BrokerClaim> ClaimTable::end_connection(std::uint64_t connection) {
    std::vector<BrokerClaim> held;
    for (;;) {
        const auto found = by_connection_.lower_bound({connection, 0});
        if (found == by_connection_.end() || found->first != connection) return held;
        const std::uint64_t number = found->second;
        held.push_back(entries_.at(number).claim);
        erase(number);
    }
}

std::vector<BrokerClaim> ClaimTable::end_all() {
    std::vector<BrokerClaim> ended;
    while (!entries_.empty()) {
        const auto &[number, entry] = *entries_.begin();
        if (entry.connection == 0 || !entry.claim.maps) ended.push_back(entry.claim);
        erase(number);
    }
    return ended;
}

}  // namespace pmfs::front
