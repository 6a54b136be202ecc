// Bytes that lie in several places: what a request carries, where its sender has put it.
#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <span>

#include "base/bytes.h"

namespace pmfs {

// Does not own them.  Converts from one contiguous range, so that callers that have only that need
// not know this class.
class Pieces {
public:
    Pieces() = default;
    template <class T>
    requires std::is_convertible_v<T, ConstBytes> Pieces(const T &bytes)
        : whole_(bytes), size_(whole_.size()) {}
    explicit Pieces(std::span<const iovec> pieces) : pieces_(pieces) {
        for (const iovec &piece : pieces) size_ += piece.iov_len;
    }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    // Calls use(ConstBytes) for bytes [offset, offset + size), which must exist, in order; pieces
    // that are adjacent in memory in one call.
    template <class Use>
    void each(std::size_t offset, std::size_t size, Use use) const {
        PMFS_ASSERT(offset <= size_ && size <= size_ - offset);
        if (pieces_.empty()) {
            if (size != 0) use(whole_.subspan(offset, size));
            return;
        }
        ConstBytes run;
        for (const iovec &piece : pieces_) {
            if (size == 0) break;
            if (offset >= piece.iov_len) {
                offset -= piece.iov_len;
                continue;
            }
            const auto *from = static_cast<const std::byte *>(piece.iov_base) + offset;
            const std::size_t n = std::min(size, piece.iov_len - offset);
            if (!run.empty() && run.data() + run.size() == from) {
                run = ConstBytes(run.data(), run.size() + n);
            } else {
                if (!run.empty()) use(run);
                run = ConstBytes(from, n);
            }
            size -= n;
            offset = 0;
        }
        if (!run.empty()) use(run);
    }

private:
    ConstBytes whole_;
    std::span<const iovec> pieces_;
    std::size_t size_ = 0;
};

}  // namespace pmfs
