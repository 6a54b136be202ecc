// What the kernels are told before a request is answered (docs/coherence.md).
#include <linux/fuse.h>

#include <utility>

#include "front/requests/dispatcher.h"
#include "front/requests/request.h"

namespace pmfs::front {

// A notification fails if nothing is cached, or if the connection has ended.
Notifier::Kernel Dispatcher::kernel() {
    const auto drop = [this](const Notifier::Pages &pages) {
        fuse_lowlevel_notify_inval_inode(session_, client_->node_of(pages.ino),
                                         static_cast<off_t>(pages.offset),
                                         static_cast<off_t>(pages.length));
    };
    return {
        .drop_pages =
            [this, drop](const Notifier::Pages &pages) {
                volume_.pages_go(pages.ino, pages.bytes(), pages.thread);
                drop(pages);
                volume_.pages_gone(pages.ino, pages.bytes());
            },
        .drop_again = drop,
        .goes_on =
            [this](const Notifier::Pages &pages) { volume_.pages_go(pages.ino, pages.bytes()); },
        .ended =
            [this](const Notifier::Pages &pages) { volume_.pages_gone(pages.ino, pages.bytes()); },
        .forget_attributes =
            [this](InodeNo ino) {
                fuse_lowlevel_notify_inval_inode(session_, client_->node_of(ino), -1, 0);
            },
        .forget_name =
            [this](const Notifier::Name &name) {
                fuse_lowlevel_notify_inval_entry(session_, client_->node_of(name.dir),
                                                 name.name.c_str(), name.name.size());
            }};
}

void Dispatcher::tell(fuse_req_t req, Stale stale, const Notifier::Pages &written,
                      std::function<void()> reply) {
    Notifier *notifier = client_->notifier();
    if (!stale.any() || notifier == nullptr) return reply();
    if (stale.mode) mode_changed(written.ino);
    if (stale.pages && may_wait()) return drop_first(req, written, std::move(reply));
    auto answer = answering(std::move(reply));
    if (stale.refilled || stale.refilled_part) {
        const bool also = stale.attributes || stale.mode;
        return notifier->drop_refilled(written, {stale.refilled, stale.refilled_part},
                                       fuse_req_ctx(req)->uid,
                                       [notifier, answer, also, ino = written.ino] {
                                           if (!also) return answer();
                                           notifier->forget_attributes(ino, answer);
                                       });
    }
    // A notification about pages is one about attributes, too.
    if (!stale.pages) return notifier->forget_attributes(written.ino, answer);
    notifier->drop_pages_later(written.ino, fuse_req_ctx(req)->uid);
    notifier->forget_attributes(written.ino, answer);
}

void Dispatcher::write_again(const Notifier::Pages &written, ConstBytes bytes, const Caller &caller,
                             std::uint64_t write_backs) {
    constexpr unsigned kTriesMax = 8;
    const pm::FaultScope faults;
    for (unsigned i = 0; i < kTriesMax; ++i) {
        const std::uint64_t now = volume_.write_backs(written.ino);
        if (now == std::exchange(write_backs, now)) return;
        Stale stale;
        if (!volume_.write(written.ino, written.offset, bytes, false, caller, &stale).ok()) return;
        kernel().drop_pages(written);
    }
}

void Dispatcher::drop_first(fuse_req_t req, const Notifier::Pages &pages,
                            std::function<void()> reply) {
    Notifier::Pages asked = pages;
    asked.thread = Request::current()->waiting_thread();
    client_->notifier()->drop_pages(
        asked, fuse_req_ctx(req)->uid,
        [answer = answering(std::move(reply)), seat = Request::current()->seat()] { answer(); });
}

// What it has done so far stays, such as the first part of a write.
void Dispatcher::drop(Parked &parked, const std::function<void()> &then) {
    const bool begun = parked.progress.kept();
    parked.progress.drop();
    if (!begun || !others_hear()) return then();
    const auto header = load<fuse_in_header>(parked.message);
    const std::uint64_t changed =
        header.opcode == FUSE_COPY_FILE_RANGE
            ? load<fuse_copy_file_range_in>(parked.message, sizeof header).nodeid_out
            : header.nodeid;
    clients_.tell_others(*client_, {.pages = Notifier::Pages{.ino = InodeNo(changed)}}, header.uid,
                         then);
}

void Dispatcher::tell_others(fuse_req_t req, const News &news, std::function<void()> reply) {
    if (!news.any() || !others_hear()) return reply();
    clients_.tell_others(*client_, news, fuse_req_ctx(req)->uid, answering(std::move(reply)));
}

}  // namespace pmfs::front
