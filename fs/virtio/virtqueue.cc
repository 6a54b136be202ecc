// Taking chains from the available ring, and returning them through the used ring.
#include "virtio/virtqueue.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "base/unchecked.h"
#include "virtio/event.h"
#include "virtio/walk.h"

namespace pmfs::virtio {
namespace {

static_assert(std::endian::native == std::endian::little, "virtio 1.x rings are little-endian");

// Accesses to what the other side writes at the same time.
template <class T>
T read_once(const T &field) {
    return __atomic_load_n(&field, __ATOMIC_RELAXED);
}
template <class T>
void write_once(T &field, T value) {
    __atomic_store_n(&field, value, __ATOMIC_RELAXED);
}

// Behind the rings' last entries (virtio 1.2, 2.7.6 and 2.7.8): the index at which the other side
// wants to be notified.
const std::uint16_t &used_event(const vring_avail &ring, unsigned size) {
    return ring.ring[size];
}
std::uint16_t &available_event(vring_used &ring, unsigned size) {
    auto *const end = reinterpret_cast<std::byte *>(&ring) + sizeof ring + size * sizeof *ring.ring;
    return *reinterpret_cast<std::uint16_t *>(end);
}

void signal(const Virtqueue::Event &event) {
    if (event) count_up(event->get());
}

}  // namespace

Chain::Chain(std::shared_ptr<Virtqueue> queue, std::uint16_t head,
             std::shared_ptr<const MemoryTable> memory)
    : queue_(std::move(queue)), head_(head), memory_(std::move(memory)) {}

Chain::~Chain() {
    if (queue_) complete(0);
}

void Chain::complete(std::size_t written) {
    PMFS_ASSERT(queue_ && written <= writable_.size);
    const auto queue = std::exchange(queue_, nullptr);
    queue->complete(head_, static_cast<std::uint32_t>(written), waits_ ? entries_ : 0);
}

bool Chain::let_wait() {
    PMFS_ASSERT(queue_);
    return waits_ = waits_ || queue_->let_wait(entries_);
}

namespace {

// Calls copy(place, done, length) for each piece from `offset` on, until `size` bytes are done.
template <class Copy>
std::size_t each_piece(std::span<const iovec> pieces, std::size_t offset, std::size_t size,
                       Copy copy) {
    std::size_t done = 0;
    for (const iovec &piece : pieces) {
        if (offset >= piece.iov_len) {
            offset -= piece.iov_len;
            continue;
        }
        if (done == size || piece.iov_base == nullptr) break;
        const std::size_t length = std::min(size - done, piece.iov_len - offset);
        copy(static_cast<std::byte *>(piece.iov_base) + offset, done, length);
        done += length;
        offset = 0;
    }
    return done;
}

}  // namespace

std::size_t Chain::read(std::size_t offset, Bytes to) const {
    return each_piece(readable_.pieces, offset, to.size(),
                      [to](const std::byte *from, std::size_t done, std::size_t length) {
                          std::memcpy(to.data() + done, from, length);
                      });
}

void Chain::readable_behind(std::size_t offset, std::vector<iovec> *pieces) const {
    PMFS_ASSERT(whole_);
    each_piece(readable_.pieces, offset, readable_.size - offset,
               [pieces](std::byte *from, std::size_t, std::size_t length) {
                   pieces->push_back({from, length});
               });
}

std::size_t Chain::write(std::size_t offset, ConstBytes from) const {
    const UncheckedStores guests;  // its memory, or a file's in its window
    return each_piece(writable_.pieces, offset, from.size(),
                      [from](std::byte *to, std::size_t done, std::size_t length) {
                          std::memcpy(to, from.data() + done, length);
                      });
}

Virtqueue::Virtqueue(const Setup &setup, MemoryOwner &owner, Broken broken)
    : setup_(setup), owner_(owner), on_broken_(std::move(broken)), next_(setup.next) {}

Result<> Virtqueue::check_size(unsigned size) {
    if (!std::has_single_bit(size) || size > kQueueSizeMax)
        return Error(EINVAL, "a queue's size is no power of two, or too large");
    return {};
}

Result<std::shared_ptr<Virtqueue>> Virtqueue::make(const Setup &setup,
                                                   std::shared_ptr<const MemoryTable> memory,
                                                   MemoryOwner &owner, Broken broken) {
    TRY(check_size(setup.size));
    std::shared_ptr<Virtqueue> queue(new Virtqueue(setup, owner, std::move(broken)));
    Lock lock(queue->mutex_);
    queue->rings_ = TRY(queue->find_rings(*memory));
    queue->memory_ = std::move(memory);
    queue->used_next_ = read_once(queue->rings_.used->idx);
    lock.unlock();
    return queue;
}

Result<Virtqueue::Rings> Virtqueue::find_rings(const MemoryTable &memory) const {
    const std::uint64_t size = setup_.size;
    const auto find = [&memory](std::uint64_t user, std::uint64_t bytes, std::uint64_t unit) {
        std::byte *const at = memory.at_user(user, bytes);
        return is_aligned(reinterpret_cast<std::uintptr_t>(at), unit) ? at : nullptr;
    };
    // With the event indices behind them, whether they are in use or not.
    std::byte *const descriptors =
        find(setup_.descriptors, sizeof(vring_desc) * size, VRING_DESC_ALIGN_SIZE);
    std::byte *const available = find(setup_.available, 6 + 2 * size, VRING_AVAIL_ALIGN_SIZE);
    std::byte *const used =
        find(setup_.used, 6 + sizeof(vring_used_elem) * size, VRING_USED_ALIGN_SIZE);
    if (descriptors == nullptr || available == nullptr || used == nullptr)
        return Error(EINVAL, "a queue's rings are not in the guest's memory, or not aligned");
    return Rings{reinterpret_cast<const vring_desc *>(descriptors),
                 reinterpret_cast<vring_avail *>(available), reinterpret_cast<vring_used *>(used)};
}

const char *Virtqueue::next_head_locked(std::uint16_t available, std::uint16_t *head) {
    if (static_cast<std::uint16_t>(available - next_) > setup_.size)
        return "the available ring's index is ahead by more than the queue has";
    // So a driver that offers the same chain repeatedly cannot make us hold more than it has.
    if (under_way_ >= setup_.size) return "more chains are under way than the queue has";
    *head = read_once(rings_.available->ring[next_ & (setup_.size - 1)]);
    return *head < setup_.size ? nullptr : "a chain begins outside the descriptor table";
}

std::unique_ptr<Chain> Virtqueue::take() {
    Lock lock(mutex_);
    if (broken_ || closed_) return nullptr;
    const std::uint16_t available = __atomic_load_n(&rings_.available->idx, __ATOMIC_ACQUIRE);
    if (available == next_) return nullptr;
    std::uint16_t head = 0;
    if (const char *why = next_head_locked(available, &head)) {
        lock.unlock();
        break_off(why);
        return nullptr;
    }
    ++next_;
    ++under_way_;
    const vring_desc *const descriptors = rings_.descriptors;
    std::unique_ptr<Chain> chain(new Chain(shared_from_this(), head, memory_));
    lock.unlock();  // the table in `chain` keeps the descriptors mapped
    Walk walk(std::span(descriptors, setup_.size), setup_.indirect, setup_.bytes_max, *chain,
              owner_);
    if (const char *why = walk.from(head)) {
        forget(*chain);
        break_off(why);
        return nullptr;
    }
    return chain;
}

bool Virtqueue::pending() const {
    Lock lock(mutex_);
    return !broken_ && !closed_ &&
           __atomic_load_n(&rings_.available->idx, __ATOMIC_ACQUIRE) != next_;
}

void Virtqueue::stop_kicks() {
    Lock lock(mutex_);
    if (broken_ || detached_ || setup_.event_index) return;
    write_once(rings_.used->flags, std::uint16_t{VRING_USED_F_NO_NOTIFY});
}

bool Virtqueue::want_kicks() {
    Lock lock(mutex_);
    if (broken_ || closed_) return false;
    if (setup_.event_index)
        write_once(available_event(*rings_.used, setup_.size), next_);
    else
        write_once(rings_.used->flags, std::uint16_t{0});
    // The driver writes its index and then checks whether to kick; we do it the other way round.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return read_once(rings_.available->idx) != next_;
}

bool Virtqueue::let_wait(unsigned entries) {
    Lock lock(mutex_);
    if (waiting_ + entries > setup_.size / 2) return false;
    waiting_ += entries;
    return true;
}

void Virtqueue::complete(std::uint16_t head, std::uint32_t written, unsigned waiting) {
    Lock lock(mutex_);
    waiting_ -= waiting;
    if (!detached_ && rings_.used != nullptr) {
        vring_used_elem &element = rings_.used->ring[used_next_ & (setup_.size - 1)];
        write_once(element.id, std::uint32_t{head});
        write_once(element.len, written);
        __atomic_store_n(&rings_.used->idx, ++used_next_, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (driver_wants_call_locked()) signal(call_);
        told_ = true;
    }
    leave_locked();
}

bool Virtqueue::driver_wants_call_locked() const {
    if (!told_) return true;
    if (!setup_.event_index)
        return (read_once(rings_.available->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
    return vring_need_event(read_once(used_event(*rings_.available, setup_.size)), used_next_,
                            static_cast<std::uint16_t>(used_next_ - 1)) != 0;
}

void Virtqueue::forget(Chain &chain) {
    const auto queue = std::exchange(chain.queue_, nullptr);  // `this` for a while longer
    Lock lock(mutex_);
    leave_locked();
}

void Virtqueue::leave_locked() {
    if (--under_way_ == 0) idle_.notify_all();
}

void Virtqueue::break_off(const char *why) {
    Lock lock(mutex_);
    const bool first = break_locked();
    lock.unlock();
    if (first) on_broken_(why);
}

// False: it is already.
bool Virtqueue::break_locked() {
    if (std::exchange(broken_, true)) return false;
    signal(error_);
    return true;
}

void Virtqueue::set_call(Event call) {
    Lock lock(mutex_);
    call_ = std::move(call);
}

void Virtqueue::set_error(Event error) {
    Lock lock(mutex_);
    error_ = std::move(error);
}

void Virtqueue::set_memory(std::shared_ptr<const MemoryTable> memory) {
    const auto rings = find_rings(*memory);
    Lock lock(mutex_);
    rings_ = rings.value_or(Rings{});
    std::swap(memory_, memory);
    const bool breaks = !rings.ok() && break_locked();  // without rings it is broken
    lock.unlock();                                      // before the old table's mappings go
    if (breaks) on_broken_("the queue's rings are not in the new memory table");
}

void Virtqueue::close() {
    Lock lock(mutex_);
    closed_ = true;
}

void Virtqueue::detach() {
    Lock lock(mutex_);
    closed_ = detached_ = true;
}

bool Virtqueue::wait_idle(std::chrono::milliseconds time_max) {
    const auto end = std::chrono::steady_clock::now() + time_max;
    Lock lock(mutex_);
    while (under_way_ != 0) {
        const auto left = end - std::chrono::steady_clock::now();
        if (left <= left.zero() || !idle_.wait_for(mutex_, left)) return under_way_ == 0;
    }
    return true;
}

std::uint16_t Virtqueue::next() const {
    Lock lock(mutex_);
    return next_;
}

}  // namespace pmfs::virtio
