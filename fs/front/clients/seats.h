// Seats for requests that wait for a lease, another operation, or the kernel's write-back.  A
// waiting request keeps its message in memory, and over io_uring and in a virtqueue it takes a
// place of others; so the number of seats is limited, users share them (base/places.h), and a
// request that gets none fails instead of waiting (EAGAIN).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/mutex.h"
#include "base/places.h"

namespace pmfs::front {

class Seats {
public:
    static constexpr std::size_t kRequestsMax = 32768;
    // The share of the machine's memory: a sixteenth, within bounds.
    static std::size_t bytes_max();

    explicit Seats(std::size_t bytes = bytes_max(), std::size_t requests = kRequestsMax)
        : table_(std::make_shared<Table>(requests, bytes)) {}

    // A seat, taken as long as this lives.
    using Seat = std::shared_ptr<const void>;
    // A seat for a message of so many bytes.  Null: none is free, or none for that user.
    Seat take(std::uint32_t user, std::size_t bytes);

private:
    struct Table {
        Table(std::size_t requests_max, std::size_t bytes_max)
            : request_share(requests_max / 2),
              byte_share(bytes_max / 2),
              requests(requests_max),
              bytes(bytes_max) {}
        const std::size_t request_share, byte_share;  // of a user
        Mutex mutex;
        Places requests GUARDED_BY(mutex), bytes GUARDED_BY(mutex);
    };
    std::shared_ptr<Table> table_;
};

}  // namespace pmfs::front
