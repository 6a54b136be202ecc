// From a client's numbers to the volume's: node ids, user and group ids, process ids.
//
// This is done once, in the message itself, before anything else reads it. So no other code knows
// that a client may have a subdirectory as its root, or users of its own. On the way out, convert.h
// does the reverse.
#pragma once
#include "base/bytes.h"
#include "front/clients/client.h"

namespace pmfs::front {

// Translates a checked message.  0, or the error to answer: ESTALE (a node that the client cannot
// have), EOVERFLOW (a user or a group that it does not have).
int translate(Bytes message, const Client &client);

}  // namespace pmfs::front
