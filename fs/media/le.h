// Little-endian integers for the media.  Converting is the only way in or out, so that a missed
// byte swap does not compile.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace pmfs::media {

template <class U>
class le {
public:
    constexpr le() = default;
    constexpr explicit le(U value) : raw_(swap(value)) {}
    constexpr U get() const { return swap(raw_); }
    constexpr void set(U value) { raw_ = swap(value); }
    friend constexpr bool operator==(le, le) = default;

private:
    static constexpr U swap(U value) {
        if constexpr (std::endian::native == std::endian::little || sizeof(U) == 1) {
            return value;
        } else {
            U out = 0;
            for (std::size_t i = 0; i < sizeof(U); ++i, value >>= 8)
                out = static_cast<U>((out << 8) | (value & 0xff));
            return out;
        }
    }
    U raw_ = 0;
};

using le16 = le<std::uint16_t>;
using le32 = le<std::uint32_t>;
using le64 = le<std::uint64_t>;

// True when T may live on media: its bytes are all its own (no padding) and can be memcpy'd.
template <class T>
inline constexpr bool is_media_v = std::is_trivially_copyable_v<T> &&std::is_standard_layout_v<T>
    &&std::has_unique_object_representations_v<T>;

}  // namespace pmfs::media
