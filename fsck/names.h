// The rule by which a name becomes a key: docs/format.md "Keys of names".
#pragma once
#include <sodium/crypto_shorthash.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "media/format.h"

namespace pmfs::fsck {

// The key of `name`, its collision index taken as zero.
inline std::uint64_t name_key(const media::Superblock &sb, std::string_view name) {
    static_assert(crypto_shorthash_KEYBYTES == sizeof sb.hash_key);
    media::le64 hash;
    static_assert(crypto_shorthash_BYTES == sizeof hash);
    crypto_shorthash(reinterpret_cast<unsigned char *>(&hash),
                     reinterpret_cast<const unsigned char *>(name.data()), name.size(),
                     sb.hash_key);
    const std::uint64_t part = (hash.get() >> 1) & ~media::kCollisionMask;
    return part != 0 ? part : 256;
}

inline std::string_view text_in(ConstBytes bytes) {
    return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

// Remembers the names of the entries last seen that differ in the collision index only.
class SameHash {
public:
    // True when the same name was there already.
    bool seen(std::uint64_t key, std::string_view name) {
        if (key / (media::kCollisionMask + 1) != part_) {
            part_ = key / (media::kCollisionMask + 1);
            names_.clear();
        }
        for (const std::string_view other : names_)
            if (other == name) return true;
        names_.push_back(name);
        return false;
    }

private:
    std::uint64_t part_ = 0;
    std::vector<std::string_view> names_;
};

// A name as readable text for a report, whatever bytes it has.
std::string in_quotes(std::string_view name);

}  // namespace pmfs::fsck
