/* One life of transactions, line by line: it is to lead to the same end wherever the server dies in
 * it, for clients ask again until they are told. */
#ifndef CULEX_TESTS_TXN_SCRIPT_H
#define CULEX_TESTS_TXN_SCRIPT_H

#include "tests/sim/txn_world.h"

enum { WAIT = DO_END + 1, RECREATE, DELETE_GROUP };

struct line {
    int client, kind, arg; /* arg: a partition; does it commit; milliseconds */
    enum kerr hears;
};

/* Clients 0 and 3 have one transactional id, 1 speaks the old protocol, 5 is a plain one. */
static const struct line script[] = {
    {5, DO_INIT, 0, KERR_NONE},
    {5, DO_PRODUCE, 0, KERR_NONE},
    {0, DO_INIT, 0, KERR_NONE},
    {0, DO_PRODUCE, 0, KERR_NONE},
    {0, DO_PRODUCE, 1, KERR_NONE},
    {0, DO_OFFSET, 0, KERR_NONE},
    {1, DO_INIT, 0, KERR_NONE},
    {1, DO_ADD, 0, KERR_NONE},
    {1, DO_PRODUCE, 0, KERR_NONE},
    {1, DO_ADD, 1, KERR_NONE},
    {1, DO_PRODUCE, 1, KERR_NONE},
    {1, DO_ADD_GROUP, 0, KERR_NONE},
    {1, DO_OFFSET, 0, KERR_NONE},
    {0, DO_END, true, KERR_NONE},
    {1, DO_END, false, KERR_NONE},
    {5, DO_PRODUCE, 1, KERR_NONE},
    {1, DO_ADD, 0, KERR_NONE},
    {1, DO_PRODUCE, 0, KERR_NONE},
    {1, DO_ADD_GROUP, 0, KERR_NONE},
    {1, DO_OFFSET, 0, KERR_NONE},
    {1, DO_END, true, KERR_NONE},
    {0, DO_PRODUCE, 0, KERR_NONE},
    {3, DO_INIT, 0, KERR_NONE}, /* aborts it, and fences who has begun it */
    {0, DO_END, true, KERR_PRODUCER_FENCED},
    {3, DO_PRODUCE, 2, KERR_NONE},
    {3, DO_PRODUCE, 0, KERR_NONE},
    {0, RECREATE, 0, KERR_NONE},
    {3, DO_END, true, KERR_NONE},
    {2, DO_INIT, 0, KERR_NONE},
    {2, DO_PRODUCE, 1, KERR_NONE},
    {2, DO_OFFSET, 0, KERR_NONE},
    {0, DELETE_GROUP, 0, KERR_NONE},
    {2, DO_END, true, KERR_NONE},
    {2, DO_PRODUCE, 0, KERR_NONE},
    {0, WAIT, 2 * TIMEOUT_MS, KERR_NONE}, /* it is aborted */
    {0, WAIT, 2000, KERR_NONE},           /* or then, if that was lost */
    {2, DO_END, true, KERR_INVALID_TXN_STATE},
    {2, DO_INIT, 0, KERR_NONE},
    {2, DO_PRODUCE, 2, KERR_NONE},
    {2, DO_OFFSET, 0, KERR_NONE},
    {2, DO_END, true, KERR_NONE},
};

#endif
