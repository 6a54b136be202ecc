// Admitting clients, and telling one what others change: see clients.h.
#include "front/clients/clients.h"

#include <sys/stat.h>

namespace pmfs::front {

Clients::Clients(Volume &volume) : volume_(volume) {
    volume.set_attribute_watcher(*this);
}

Result<std::shared_ptr<Client>> Clients::admit(Policy policy, Origin origin) {
    if (policy.notifiable && notified_ != nullptr)
        return Error(EBUSY, "another client's kernel is notified of changes already");
    if (policy.root != InodeNo(Client::kRootNode)) {
        // The reference is kept until the client is dismissed, even if the directory is renamed.
        const Attr root = TRY(volume_.lookup(policy.root, "."));
        if (!S_ISDIR(root.mode)) {
            volume_.forget(policy.root, 1);
            return Error(ENOTDIR, "a client's root must be a directory");
        }
    }
    const ClientId id = policy.notifiable ? 0 : next_.fetch_add(1);
    auto client = std::make_shared<Client>(volume_, id, std::move(policy), std::move(origin));
    if (client->policy().notifiable) notified_ = client;
    Lock held(mutex_);
    present_[id] = client;
    return client;
}

void Clients::dismiss(Client &client) {
    {
        Lock held(mutex_);
        present_.erase(client.id());
    }
    if (!client.whole()) volume_.forget(client.policy().root, 1);
}

std::vector<std::shared_ptr<const Client>> Clients::present() {
    Lock held(mutex_);
    std::vector<std::shared_ptr<const Client>> all;
    for (const auto &[id, weak] : present_)
        if (auto client = weak.lock()) all.push_back(std::move(client));
    return all;
}

void Clients::tell_others(const Client &client, const News &news, std::uint32_t user,
                          std::function<void()> then) {
    if (!others_hear(client) || notified_->notifier() == nullptr) return then();
    tellings_.fetch_add(1, std::memory_order_acq_rel);
    Notifier &notifier = *notified_->notifier();
    for (const InodeNo ino : news.attributes) notified_->owe_attributes(ino);
    if (news.pages) notified_->owe_attributes(news.pages->ino);  // it may have another size
    for (const InodeNo ino : news.attributes)
        if (notified_->holds(ino))
            then = [&notifier, ino, then] { notifier.forget_attributes(ino, then); };
    if (news.pages && notified_->holds(news.pages->ino))
        then = [&notifier, pages = *news.pages, user, then] {
            notifier.drop_pages(pages, user, then);
        };
    for (const Notifier::Name &name : news.names)
        if (notified_->holds(name.dir))
            then = [&notifier, name, user, then] { notifier.forget_name(name, user, then); };
    then();
}

bool Clients::cached(const Client &client, InodeNo ino) {
    return notified_ != nullptr && notified_->notifier() != nullptr &&
           (notified_.get() == &client || notified_->holds(ino));
}

void Clients::flush(const Client &client, const Notifier::Pages &pages, std::uint32_t user,
                    const std::function<void()> &then) {
    if (!cached(client, pages.ino)) return then();
    Notifier::Pages asked = pages;
    if (notified_.get() != &client) asked.thread = 0;  // a thread of another kernel
    notified_->notifier()->drop_pages(asked, user, then);
}

void Clients::forget_attributes(const Client &client, InodeNo ino,
                                const std::function<void()> &then) {
    if (!cached(client, ino)) return then();
    if (notified_.get() != &client) tellings_.fetch_add(1, std::memory_order_acq_rel);
    notified_->notifier()->forget_attributes(ino, then);
}

void Clients::attributes_changed(InodeNo ino) {
    if (notified_ != nullptr && notified_->notifier() != nullptr)
        notified_->notifier()->forget_attributes(ino, [] {});
}

}  // namespace pmfs::front
