// Result<T>: a value or an Error.  pmfs does not throw; every fallible function returns a Result.
//
//     Result<InodeNo> find(...);
//     const InodeNo inode = TRY(find(...));                // hands an error on to the caller
//     if (auto found = find(...); !found.ok()) ...         // or looks at it
//
// value(), error() and take() assert that what they return exists; after a test of ok() the
// compiler drops that check.  A Result is as trivial to copy as its T, and T may be move-only.
#pragma once
#include <cerrno>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/assert.h"

namespace pmfs {

// An errno for the kernel, a sentence for a person, and where it was first raised.
// `what` is a string literal, so an Error costs no allocation and is safe under ENOMEM.
class [[nodiscard]] Error {
public:
    constexpr Error(int errno_value, const char *what, const char *file = __builtin_FILE(),
                    int line = __builtin_LINE())
        : errno_(errno_value), line_(line), what_(what), file_(file) {}

    constexpr int errno_value() const { return errno_; }
    constexpr const char *what() const { return what_; }
    constexpr const char *file() const { return file_; }
    constexpr int line() const { return line_; }

    // The inode (its number) that an operation has to wait for; 0 = none.  See base/errors.h.
    constexpr std::uint64_t subject() const { return subject_; }
    constexpr Error about(std::uint64_t subject) const {
        Error error = *this;
        error.subject_ = subject;
        return error;
    }

private:
    int errno_;
    int line_;
    const char *what_;
    const char *file_;
    std::uint64_t subject_ = 0;
};
static_assert(std::is_trivially_copyable_v<Error> && sizeof(Error) == 32);

// The medium contradicts itself.  ext4 and XFS return EUCLEAN, too, so callers know it.
constexpr Error corrupt(const char *what, const char *file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
    return Error(EUCLEAN, what, file, line);
}

template <class T = void>
class [[nodiscard]] Result {
    static_assert(std::is_object_v<T> && !std::is_same_v<std::remove_cv_t<T>, Error>);

public:
    using Value = T;

    constexpr Result(Error error) : state_(std::in_place_index<1>, error) {}

    // From whatever converts to T, so that a derived unique_ptr or a braced value can be returned.
    template <class U = T>
    requires(std::is_convertible_v<U &&, T> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
             !std::is_same_v<std::remove_cvref_t<U>, Error>) constexpr Result(U &&value)
        : state_(std::in_place_index<0>, std::forward<U>(value)) {}

    constexpr bool ok() const { return state_.index() == 0; }

    constexpr const T &value() const & { return *checked(std::get_if<0>(&state_)); }
    constexpr T &value() & { return *checked(std::get_if<0>(&state_)); }
    const T &value() && = delete;  // would dangle: take() it
    constexpr const Error &error() const { return *checked(std::get_if<1>(&state_)); }
    constexpr T take() && { return std::move(*checked(std::get_if<0>(&state_))); }
    constexpr T value_or(T other) const & { return ok() ? value() : std::move(other); }

private:
    template <class P>
    static constexpr P *checked(P *held) {
        PMFS_ASSERT(held != nullptr);
        return held;
    }

    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    using Value = void;

    constexpr Result() : error_(0, nullptr, nullptr, 0) {}
    constexpr Result(Error error) : error_(error) { PMFS_ASSERT(error.errno_value() != 0); }

    constexpr bool ok() const { return error_.errno_value() == 0; }
    constexpr const Error &error() const {
        PMFS_ASSERT(!ok());
        return error_;
    }
    constexpr void take() && {}

private:
    Error error_;  // errno 0: no error
};

}  // namespace pmfs

// Gives the value, or returns the error from the enclosing function.  May be nested.
#define TRY(expr) PMFS_TRY_COUNTED_(expr, __COUNTER__)
#define PMFS_TRY_COUNTED_(expr, number) PMFS_TRY_NAMED_(expr, number)
#define PMFS_TRY_NAMED_(expr, number) PMFS_TRY_BODY_(expr, try_result_##number)
#define PMFS_TRY_BODY_(expr, name)                                                                 \
    __extension__({                                                                                \
        auto name = (expr);                                                                        \
        if (!name.ok()) [[unlikely]]                                                               \
            return name.error();                                                                   \
        std::move(name).take();                                                                    \
    })
