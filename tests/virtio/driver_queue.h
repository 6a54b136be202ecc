// The driver's side of a split virtqueue (virtio 1.2, 2.7), well-behaved unless asked otherwise:
// the rings are open to tests that write nonsense.
#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_descriptor.h"
#include "virtio/guest_ram.h"
#include "virtio/kernel_headers.h"

namespace pmfs::test {

class DriverQueue {
public:
    struct Options {
        unsigned size = 16;
        bool event_index = false;
        bool indirect = false;  // submit() uses one indirect table a chain
    };
    // A piece of memory that a chain has, by its guest address.
    struct Piece {
        std::uint64_t guest;
        std::uint32_t size;
        bool write;
    };
    struct Used {
        unsigned id;            // what submit() returned
        std::uint32_t written;  // as the device says
        std::string bytes;      // of what it may write, as many
    };

    DriverQueue(GuestRam &ram, const Options &options);

    // Offers a chain of these bytes, in `pieces` descriptors, and of room for `writable` bytes; and
    // kicks, if the device wants it.  What names the chain.
    unsigned submit(std::string_view readable, std::size_t writable, unsigned pieces = 1);
    // A chain of any addresses.
    unsigned submit(const std::vector<Piece> &chain);
    // The next used one; nothing: there is none in time.
    std::optional<Used> wait(std::chrono::milliseconds time_max = std::chrono::seconds(10));
    std::optional<Used> poll();

    // For attacks.
    vring_desc &descriptor(unsigned index) { return ram_.at<vring_desc>(descriptors_)[index]; }
    vring_avail &available() { return *ram_.at<vring_avail>(available_); }
    vring_used &used() { return *ram_.at<vring_used>(used_); }
    // Puts a head into the available ring, with nothing checked.
    void offer(std::uint16_t head);
    void kick(bool always = true);
    std::uint16_t &used_event();
    std::uint16_t available_event();

    unsigned size() const { return options_.size; }
    std::uint16_t next_available() const { return next_available_; }
    // How often we were told since the last time.
    std::uint64_t calls();
    int kick_fd() const { return kick_.get(); }
    int call_fd() const { return call_.get(); }
    int error_fd() const { return error_.get(); }
    vhost_vring_addr address(unsigned index) const;

    // The device lost what it knew: from the beginning.
    void restart();

private:
    struct Chain {
        std::vector<std::uint16_t> descriptors;
        std::vector<Piece> pieces;
        bool ours = false;
    };
    unsigned chain_up(Chain chain);
    std::vector<std::uint16_t> take_descriptors(std::size_t count);

    GuestRam &ram_;
    const Options options_;
    std::size_t descriptors_, available_, used_;
    FileDescriptor kick_, call_, error_;
    std::vector<std::uint16_t> free_;
    std::map<unsigned, Chain> offered_;
    std::uint16_t next_available_ = 0, next_used_ = 0, kicked_ = 0;
};

}  // namespace pmfs::test
