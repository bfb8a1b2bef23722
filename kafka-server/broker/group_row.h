/* How groups and their offsets lie in the server's own store. Numbers are big endian; "str" is u32
 * length (0xffffffff: null) and bytes.
 *
 *   key    "group/" group id
 *   value  u8 version = 1 | u8 state (enum group_state) | i32 generation |
 *          i64 empty since, wall ms, -1: not | str protocol type | str protocol name |
 *          u32 index of the leader | u32 members, each:
 *              str id | str instance id | str client id | str client host |
 *              i32 session timeout ms | i32 rebalance timeout ms |
 *              u32 protocols, each: str name, str metadata |
 *              str assignment
 *          Members that have not been in a generation yet are left out: nobody was told that they
 *          are in.
 *
 *   key    the same, of a group of the consumer protocol
 *   value  u8 version = 2 | i32 epoch | i32 epoch of the target | u64 hash of its topics |
 *          u32 members, each:
 *              str id | str instance id | str rack id | str client id | str client host |
 *              str regular expression | str assignor | u32 topics, each: str name |
 *              i32 rebalance timeout ms | i32 epoch | i32 epoch before | u8 state |
 *              set of partitions assigned, to be revoked, of the target, each:
 *                  u32 topics, each: 16 bytes id, u32 partitions, each: i32 |
 *              i32 protocols, -1: none, it speaks the consumer protocol; else
 *                  i32 session timeout ms, and each: str name, str metadata
 *          One row, so that a step of a member and what it does to the group are one thing.
 *
 *   key    "offset/" u16 length of group id | group id | topic | u32 partition
 *   value  u8 version = 2 | i64 offset | i32 leader epoch, -1: unknown |
 *          i64 committed at, wall ms | i64 expires at, wall ms, -1: by offsets.retention.minutes |
 *          16 bytes topic id, not in version 1 | metadata, all that is left
 *          The id tells a topic from another one that was made under its name later, while the
 *          server was down: a position in the one is nothing in the other.
 *
 * A reader takes the versions that it knows and calls everything else corrupt: a row is then left
 * alone, and said so in the log, rather than misread. */
#ifndef CULEX_BROKER_GROUP_ROW_H
#define CULEX_BROKER_GROUP_ROW_H

#include "shared/base/buf.h"

#define GROUP_ROW_PREFIX     "group/"
#define OFFSET_ROW_PREFIX    "offset/"
#define GROUP_ROW_VERSION    1
#define CGROUP_ROW_VERSION   2
#define OFFSET_ROW_VERSION   2 /* 1 is read, too */
#define ROW_KEY_BYTES_MAX    1024 /* the store's */
#define OFFSET_ROW_BYTES_MAX (1u << 20)
#define GROUP_ROW_BYTES_MAX  (128u << 20) /* GROUP_BYTES_MAX twice, and names */

struct offset_row {
    int64_t offset;
    int32_t leader_epoch;
    int64_t commit_ms;
    int64_t expire_ms;
    struct uuid topic_id;  /* zero: not known, a row of version 1 */
    struct slice metadata; /* borrowed */
};

/* Each replaces what the buffer holds. */
void group_row_key(struct buf *key, struct slice group_id);
void offset_row_key(struct buf *key, struct slice group_id, struct slice topic, int32_t partition);
/* False: not such a key. Slices point into key. */
bool group_row_key_parse(struct slice key, struct slice *group_id);
bool offset_row_key_parse(struct slice key, struct slice *group_id, struct slice *topic,
                          int32_t *partition);

void offset_row_encode(const struct offset_row *row, struct buf *out);
/* False: not a row of ours. */
bool offset_row_decode(struct slice value, struct offset_row *row);

/* "str". Read: data NULL is null; borrowed from what r reads. */
void group_row_put_str(struct buf *b, struct slice s);
struct slice group_row_get_str(struct reader *r);

#endif
