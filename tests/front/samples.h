// Messages by hand: one of every kind, and a port that sends them as they are.
#pragma once
#include <linux/fuse.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "front/requests/dispatcher.h"
#include "seal/wire.h"

namespace pmfs::test {

inline constexpr std::uint32_t kOpcodeMax = 64;

// Sends messages as they are, each right before a page that cannot be read, and counts what comes
// back.
class Raw : public front::ReplyPort {
public:
    explicit Raw(front::Dispatcher &dispatcher);
    ~Raw() override;

    // The reply's error (0 or a positive errno value), or -1: none came before dispatch() returned.
    int send_raw(std::string_view message, std::uint64_t unique);
    int send_message(std::uint32_t opcode, std::uint64_t node, std::string_view body,
                     std::size_t cut = 0);
    ssize_t send(std::span<const iovec> message) override;

private:
    front::Dispatcher &dispatcher_;
    std::byte *end_;
    std::mutex mutex_;
    std::map<std::uint64_t, int> replies_;
    std::uint64_t next_unique_ = 1'000'000;
};

struct Sample {
    std::uint32_t opcode;
    std::uint64_t node;
    std::string body;
    bool reply = true;
};

// A message's fixed part, and names behind it.
std::string names(std::string fixed, std::initializer_list<std::string> names);
// A good message of every kind, in an order in which all but DESTROY succeed.
std::vector<Sample> samples(const OpenFile &file, std::uint64_t dir);

}  // namespace pmfs::test
