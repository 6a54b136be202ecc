// See driver_queue.h.
#include "virtio/driver_queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace pmfs::test {
namespace {

FileDescriptor event() {
    return FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

}  // namespace

DriverQueue::DriverQueue(GuestRam &ram, const Options &options)
    : ram_(ram),
      options_(options),
      descriptors_(ram.take(16 * options.size, 16)),
      available_(ram.take(6 + 2 * options.size, 2)),
      used_(ram.take(6 + 8 * options.size, 4)),
      kick_(event()),
      call_(event()),
      error_(event()) {
    restart();
}

void DriverQueue::restart() {
    std::memset(&descriptor(0), 0, 16 * options_.size);
    std::memset(&available(), 0, 6 + 2 * options_.size);
    std::memset(&used(), 0, 6 + 8 * options_.size);
    free_.clear();
    for (unsigned i = options_.size; i-- > 0;) free_.push_back(static_cast<std::uint16_t>(i));
    offered_.clear();
    next_available_ = next_used_ = kicked_ = 0;
}

vhost_vring_addr DriverQueue::address(unsigned index) const {
    return {index, 0, ram_.user(descriptors_), ram_.user(used_), ram_.user(available_), 0};
}

std::vector<std::uint16_t> DriverQueue::take_descriptors(std::size_t count) {
    if (free_.size() < count) throw std::runtime_error("the queue is full");
    std::vector<std::uint16_t> taken(free_.end() - static_cast<std::ptrdiff_t>(count), free_.end());
    std::reverse(taken.begin(), taken.end());
    free_.resize(free_.size() - count);
    return taken;
}

unsigned DriverQueue::submit(std::string_view readable, std::size_t writable, unsigned pieces) {
    Chain chain;
    for (unsigned i = 0; i < pieces && !readable.empty(); ++i) {
        const std::size_t size = i + 1 == pieces
                                     ? readable.size()
                                     : std::max<std::size_t>(readable.size() / (pieces - i), 1);
        const std::size_t at = ram_.take(size);
        std::memcpy(ram_.at(at), readable.data(), size);
        readable.remove_prefix(size);
        chain.pieces.push_back({ram_.guest(at), static_cast<std::uint32_t>(size), false});
    }
    for (unsigned i = 0; i < pieces && writable != 0; ++i) {
        const std::size_t size =
            i + 1 == pieces ? writable : std::max<std::size_t>(writable / (pieces - i), 1);
        writable -= size;
        chain.pieces.push_back(
            {ram_.guest(ram_.take(size)), static_cast<std::uint32_t>(size), true});
    }
    chain.ours = true;
    return chain_up(std::move(chain));
}

unsigned DriverQueue::submit(const std::vector<Piece> &pieces) {
    Chain chain;
    chain.pieces = pieces;
    return chain_up(std::move(chain));
}

unsigned DriverQueue::chain_up(Chain chain) {
    const std::size_t count = chain.pieces.size();
    vring_desc *table = &descriptor(0);
    std::vector<std::uint16_t> numbers;
    if (options_.indirect) {
        chain.descriptors = take_descriptors(1);
        const std::size_t at = ram_.take(16 * count);
        table = ram_.at<vring_desc>(at);
        descriptor(chain.descriptors[0]) = {ram_.guest(at), static_cast<std::uint32_t>(16 * count),
                                            VRING_DESC_F_INDIRECT, 0};
        for (std::size_t i = 0; i < count; ++i) numbers.push_back(static_cast<std::uint16_t>(i));
    } else {
        numbers = chain.descriptors = take_descriptors(count);
    }
    for (std::size_t i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        const int flags =
            (chain.pieces[i].write ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT);
        table[numbers[i]] = {chain.pieces[i].guest, chain.pieces[i].size,
                             static_cast<std::uint16_t>(flags),
                             last ? std::uint16_t{0} : numbers[i + 1]};
    }
    const unsigned id = chain.descriptors[0];
    offered_[id] = std::move(chain);
    offer(static_cast<std::uint16_t>(id));
    kick(false);
    return id;
}

void DriverQueue::offer(std::uint16_t head) {
    available().ring[next_available_ % options_.size] = head;
    __atomic_store_n(&available().idx, ++next_available_, __ATOMIC_RELEASE);
}

void DriverQueue::kick(bool always) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const bool wanted =
        options_.event_index
            ? vring_need_event(available_event(), next_available_, kicked_) != 0
            : (__atomic_load_n(&used().flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) == 0;
    kicked_ = next_available_;
    const std::uint64_t one = 1;
    if (always || wanted) (void)!::write(kick_.get(), &one, sizeof one);
}

std::uint16_t &DriverQueue::used_event() {
    return available().ring[options_.size];
}

std::uint16_t DriverQueue::available_event() {
    return __atomic_load_n(
        reinterpret_cast<std::uint16_t *>(ram_.at(used_ + 4 + 8 * options_.size)),
        __ATOMIC_RELAXED);
}

std::optional<DriverQueue::Used> DriverQueue::poll() {
    if (__atomic_load_n(&used().idx, __ATOMIC_ACQUIRE) == next_used_) return std::nullopt;
    const vring_used_elem element = used().ring[next_used_ % options_.size];
    ++next_used_;
    Used result{element.id, element.len, {}};
    const auto found = offered_.find(element.id);
    if (found == offered_.end()) return result;
    std::size_t left = element.len;
    for (const Piece &piece : found->second.pieces) {
        if (!piece.write || !found->second.ours) continue;
        const std::size_t size = std::min<std::size_t>(left, piece.size);
        result.bytes.append(ram_.at<char>(piece.guest - ram_.guest(0)), size);
        left -= size;
    }
    for (const std::uint16_t number : found->second.descriptors) free_.push_back(number);
    offered_.erase(found);
    return result;
}

// As a driver does: asks to be told of the next one, looks, and only then waits.
std::optional<DriverQueue::Used> DriverQueue::wait(std::chrono::milliseconds time_max) {
    const auto end = std::chrono::steady_clock::now() + time_max;
    for (;;) {
        if (options_.event_index) __atomic_store_n(&used_event(), next_used_, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (auto found = poll()) return found;
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            end - std::chrono::steady_clock::now());
        if (left.count() <= 0) return std::nullopt;
        pollfd one = {call_.get(), POLLIN, 0};
        if (::poll(&one, 1, static_cast<int>(left.count()) + 1) > 0) calls();
    }
}

std::uint64_t DriverQueue::calls() {
    std::uint64_t count = 0;
    return ::read(call_.get(), &count, sizeof count) == sizeof count ? count : 0;
}

}  // namespace pmfs::test
