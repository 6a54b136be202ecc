// Counting seats: see seats.h.
#include "front/clients/seats.h"

#include <unistd.h>

#include <algorithm>

namespace pmfs::front {

std::size_t Seats::bytes_max() {
    constexpr std::size_t kLeast = std::size_t{256} << 20, kMost = std::size_t{4} << 30;
    const long pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
    if (pages <= 0 || size <= 0) return kLeast;
    return std::clamp(static_cast<std::size_t>(pages) * static_cast<std::size_t>(size) / 16, kLeast,
                      kMost);
}

Seats::Seat Seats::take(std::uint32_t user, std::size_t bytes) {
    Lock held(table_->mutex);
    if (table_->requests.take(user, table_->request_share) != Places::Taken::yes) return nullptr;
    if (table_->bytes.take(user, table_->byte_share, {}, bytes) != Places::Taken::yes) {
        table_->requests.give_back(user);
        return nullptr;
    }
    return {static_cast<const void *>(this), [table = table_, user, bytes](const void *) {
                Lock again(table->mutex);
                table->requests.give_back(user);
                table->bytes.give_back(user, bytes);
            }};
}

}  // namespace pmfs::front
