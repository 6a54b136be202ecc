// Which requests may wait, and how many (front/clients/seats.h).
#include <linux/fuse.h>

#include "front/clients/seats.h"
#include "front/requests/dispatcher.h"
#include "front/requests/message_check.h"
#include "front/requests/request.h"

namespace pmfs::front {

// (No program could repeat a write-back that failed.)
bool Dispatcher::takes_seat(bool for_lease) {
    const Request &request = *Request::current();
    if (request.seat()) return true;
    if (client_->policy().is_host && written_back(request.message())) return true;
    request.seat() = seats_for_current(for_lease)();
    return request.seat() != nullptr;
}

// The server does not wait for a guest's write-back, so a guest's queue may be full of requests
// that end by themselves.
std::function<Seats::Seat()> Dispatcher::seats_for_current(bool for_lease) {
    const Request &request = *Request::current();
    const std::uint32_t user = load<fuse_in_header>(request.message()).uid;
    return [&seats = clients_.seats(), port = request.port(), user, size = request.message().size(),
            asks = for_lease || client_->policy().notifiable]() -> Seats::Seat {
        Seats::Seat seat = seats.take(user, size);
        return seat && (!asks || port->let_wait(user)) ? seat : nullptr;
    };
}

}  // namespace pmfs::front
