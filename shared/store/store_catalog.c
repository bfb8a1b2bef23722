/* Topics: rows in meta, and immutable snapshots of them in memory.
 *
 *   't' uid   name length u16 | name | id 16 | partitions u32 | created i64 | retention ms i64 |
 *             retention bytes i64 | cleanup u32 | attributes length u32 | attributes
 *             extents u32, each: first uid u32 | partitions u32
 *             segment ms i64 | given u8 | dirty ratio u32, in millionths | min lag ms i64 |
 *             max lag ms i64 | delete retention ms i64
 *
 * In the order of its extents a topic has its partitions; its key is the first one's uid. A row of
 * a store's first format ends after the attributes, and has one extent.
 *
 * A change is one WriteBatch: the topic's row, and the 'c' row with the next version and the next
 * uid. It is written at once, apart from what is pending, so that a topic exists before its first
 * batch can. Then a new snapshot takes the place of the old one, and the page's catalog version
 * moves, by which followers know that they have to load theirs. What alters many topics is one
 * change, too: a snapshot has a place for each topic, so one for each of them would cost their
 * square.
 *
 * Snapshots are counted. Whoever holds one keeps it; the store only ever swaps the newest. What
 * they say of a topic lies in a node, counted too, that all snapshots share until the topic
 * changes: a thousand topics made one by one are not a million copies. */
#include "shared/store/store_int.h"

#include <stdio.h>

#include "shared/base/clock.h"

#define TOPIC_ROW_BYTES_MAX (STORE_ATTRIBUTES_BYTES_MAX + 8 * STORE_PARTITIONS_MAX + 1024)
#define RATIO_UNITS         1000000 /* of min_cleanable_dirty_ratio, in a row */
#define TOPICS_MAX          STORE_UIDS_MAX

struct snapshot {
    struct store_catalog c; /* first: the pointer that callers hold */
    _Atomic int refs;
    uint32_t next_uid;
};

/* A topic as it is until it changes. */
struct node {
    struct store_topic t; /* uids and attributes point behind it */
    _Atomic int refs;
    char text[]; /* attributes, which lead back here; then, at a multiple of 4, the uids */
};

static struct node *node_of(const struct store_topic *t)
{
    return (struct node *)(void *)(t->attributes - offsetof(struct node, text));
}

/* A copy of t with attributes and uids of its own, one reference. NULL: no memory. */
static struct node *node_new(const struct store_topic *t)
{
    const char *attributes = t->attributes ? t->attributes : "";
    size_t len = strlen(attributes) + 1;
    size_t at = (offsetof(struct node, text) + len + 3) / 4 * 4;
    size_t uids_bytes = t->uids ? (size_t)t->partition_count * sizeof *t->uids : 0;
    size_t bytes = at + uids_bytes;
    struct node *n = calloc(1, bytes > sizeof *n ? bytes : sizeof *n);
    if (!n) {
        return NULL;
    }
    n->t = *t;
    atomic_init(&n->refs, 1);
    memcpy(n->text, attributes, len);
    n->t.attributes = n->text;
    if (t->uids) {
        memcpy((char *)n + at, t->uids, uids_bytes);
        n->t.uids = (const uint32_t *)(const void *)((char *)n + at);
    }
    return n;
}

static struct node *node_ref(struct node *n)
{
    atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    return n;
}

static void node_unref(struct node *n)
{
    if (atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) == 1) {
        free(n);
    }
}

static struct snapshot *snapshot_of(const struct store_catalog *c)
{
    return (struct snapshot *)(void *)(uintptr_t)c;
}

static void snapshot_free(struct snapshot *n)
{
    for (size_t i = 0; i < n->c.count; i++) {
        node_unref(node_of(&n->c.topics[i]));
    }
    free(n->c.topics);
    free(n);
}

/* With room for `room` topics and none in it. */
static struct snapshot *snapshot_new(size_t room)
{
    struct snapshot *n = calloc(1, sizeof *n);
    if (n) {
        atomic_init(&n->refs, 1);
        n->c.topics = calloc(room ? room : 1, sizeof *n->c.topics);
    }
    if (n && !n->c.topics) {
        free(n);
        n = NULL;
    }
    return n;
}

const struct store_catalog *catalog_empty(void)
{
    struct snapshot *n = snapshot_new(0);
    return n ? &n->c : NULL;
}

const struct store_catalog *store_catalog_ref(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct snapshot *n = snapshot_of(s->catalog);
    atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->lock);
    return &n->c;
}

void store_catalog_unref(struct store *s, const struct store_catalog *c)
{
    if (c) {
        struct snapshot *n = snapshot_of(c);
        if (atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) == 1) {
            snapshot_free(n);
        }
    }
}

void catalog_swap(struct store *s, const struct store_catalog *c)
{
    pthread_mutex_lock(&s->lock);
    const struct store_catalog *old = s->catalog;
    s->catalog = c;
    pthread_mutex_unlock(&s->lock);
    store_catalog_unref(s, old);
}

const struct store_topic *store_catalog_find(const struct store_catalog *c, struct slice name)
{
    size_t lo = 0, hi = c->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct store_topic *t = &c->topics[mid];
        size_t len = strlen(t->name);
        size_t common = len < name.len ? len : name.len;
        int order = common ? memcmp(t->name, name.data, common) : 0;
        if (order == 0 && len == name.len) {
            return t;
        }
        if (order < 0 || (order == 0 && len < name.len)) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

/* --- rows ------------------------------------------------------------------------------------- */

/* Runs of uids, in the order of the partitions. */
static void extents_encode(struct buf *b, const struct store_topic *t)
{
    size_t at = b->len;
    uint32_t count = 0, first = 0, next = 0;
    buf_put_be32(b, 0);
    for (int32_t p = 0; p < t->partition_count; p++, next++) {
        uint32_t uid = store_topic_uid(t, p);
        if (p > 0 && uid == next) {
            continue;
        }
        if (p > 0) {
            buf_put_be32(b, next - first);
        }
        buf_put_be32(b, uid);
        first = next = uid;
        count++;
    }
    buf_put_be32(b, next - first);
    if (buf_ok(b)) {
        be32_put(b->data + at, count);
    }
}

static void topic_encode(struct buf *b, const struct store_topic *t)
{
    size_t name_len = strlen(t->name);
    size_t attributes_len = strlen(t->attributes);
    const struct store_compaction *c = &t->compaction;
    buf_put_be16(b, (uint16_t)name_len);
    buf_put(b, t->name, name_len);
    buf_put(b, t->id.b, sizeof t->id.b);
    buf_put_be32(b, (uint32_t)t->partition_count);
    buf_put_be64(b, (uint64_t)t->created_ms);
    buf_put_be64(b, (uint64_t)t->retention_ms);
    buf_put_be64(b, (uint64_t)t->retention_bytes);
    buf_put_be32(b, t->cleanup);
    buf_put_be32(b, (uint32_t)attributes_len);
    buf_put(b, t->attributes, attributes_len);
    extents_encode(b, t);
    buf_put_be64(b, (uint64_t)t->segment_ms);
    buf_put_u8(b, c->given);
    buf_put_be32(b, (uint32_t)(c->min_cleanable_dirty_ratio * RATIO_UNITS + 0.5));
    buf_put_be64(b, (uint64_t)c->min_compaction_lag_ms);
    buf_put_be64(b, (uint64_t)c->max_compaction_lag_ms);
    buf_put_be64(b, (uint64_t)c->delete_retention_ms);
    buf_put_be64(b, (uint64_t)t->segment_bytes);
}

/* Into *uids, which stays NULL for a single extent. */
static enum err extents_decode(struct reader *r, const struct store_topic *t, uint32_t **uids)
{
    uint32_t count = reader_be32(r), partitions = (uint32_t)t->partition_count, p = 0;
    if (r->failed || count < 1 || count > partitions) {
        return ERR_CORRUPT;
    }
    uint32_t *all = calloc(partitions, sizeof *all);
    if (!all) {
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        uint32_t uid = reader_be32(r), n = reader_be32(r);
        if (n > partitions - p || uid > STORE_UIDS_MAX || n > STORE_UIDS_MAX - uid) {
            r->failed = true;
        }
        for (uint32_t k = 0; !r->failed && k < n; k++) {
            all[p++] = uid + k;
        }
    }
    if (r->failed || p != partitions || all[0] != t->uid) {
        free(all);
        return ERR_CORRUPT;
    }
    if (count == 1) {
        free(all);
        all = NULL;
    }
    *uids = all;
    return OK;
}

/* What the first format did not have. */
static enum err topic_decode_rest(struct reader *r, struct store_topic *t, uint32_t **uids)
{
    struct store_compaction *c = &t->compaction;
    enum err e = extents_decode(r, t, uids);
    if (e != OK) {
        return e;
    }
    t->segment_ms = (int64_t)reader_be64(r);
    c->given = reader_u8(r) != 0;
    c->min_cleanable_dirty_ratio = (double)reader_be32(r) / RATIO_UNITS;
    c->min_compaction_lag_ms = (int64_t)reader_be64(r);
    c->max_compaction_lag_ms = (int64_t)reader_be64(r);
    c->delete_retention_ms = (int64_t)reader_be64(r);
    t->segment_bytes = reader_left(r) > 0 ? (int64_t)reader_be64(r) : 0; /* rows of 0.1 end here */
    return r->failed ? ERR_CORRUPT : OK;
}

static enum err topic_decode(struct node **out, uint32_t uid, struct slice value)
{
    struct reader r = reader_make(value);
    struct slice name = reader_bytes(&r, reader_be16(&r));
    struct store_topic t = {.uid = uid};
    struct slice id = reader_bytes(&r, sizeof t.id.b);
    uint32_t *uids = NULL;
    t.partition_count = (int32_t)reader_be32(&r);
    t.created_ms = (int64_t)reader_be64(&r);
    t.retention_ms = (int64_t)reader_be64(&r);
    t.retention_bytes = (int64_t)reader_be64(&r);
    t.cleanup = reader_be32(&r);
    struct slice attributes = reader_bytes(&r, reader_be32(&r));
    if (r.failed || name.len > STORE_NAME_BYTES_MAX || t.partition_count < 1 ||
        t.partition_count > STORE_PARTITIONS_MAX ||
        (attributes.len > 0 && memchr(attributes.data, 0, attributes.len))) {
        return ERR_CORRUPT;
    }
    enum err e = reader_left(&r) > 0 ? topic_decode_rest(&r, &t, &uids) : OK;
    char *text = e == OK ? strndup((const char *)attributes.data, attributes.len) : NULL;
    if (text) {
        memcpy(t.name, name.data, name.len);
        memcpy(t.id.b, id.data, sizeof t.id.b);
        t.attributes = text;
        t.uids = uids;
        *out = node_new(&t);
        e = *out ? OK : ERR_NOMEM;
    }
    free(text);
    free(uids);
    return e == OK && !text ? ERR_NOMEM : e;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct store_topic *)a)->name, ((const struct store_topic *)b)->name);
}

/* Takes the reference over when OK. */
static enum err snapshot_add(struct snapshot *n, size_t *cap, const struct node *t)
{
    if (n->c.count == *cap) {
        size_t more = *cap ? *cap * 2 : 16;
        struct store_topic *grown = realloc(n->c.topics, more * sizeof *grown);
        if (!grown || more > 2 * (size_t)TOPICS_MAX) {
            return ERR_NOMEM;
        }
        n->c.topics = grown;
        *cap = more;
    }
    n->c.topics[n->c.count++] = t->t;
    return OK;
}

static enum err load_topics(struct snapshot *n, rocksdb_iterator_t *it, const char *dir,
                            struct errmsg *m)
{
    size_t cap = 0;
    uint8_t prefix = ROW_TOPIC;
    for (iter_seek(it, &prefix, 1); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct slice k = iter_key(it);
        if (k.len != UID_KEY_BYTES || k.data[0] != ROW_TOPIC) {
            break;
        }
        struct node *t;
        enum err e = topic_decode(&t, be32_get(k.data + 1), iter_value(it));
        if (e != OK) {
            return err_set(m, e, "store %s: the row of topic %u cannot be read", dir,
                           be32_get(k.data + 1));
        }
        e = snapshot_add(n, &cap, t);
        if (e != OK) {
            node_unref(t);
            return err_set(m, e, "store %s: out of memory", dir);
        }
    }
    qsort(n->c.topics, n->c.count, sizeof *n->c.topics, compare_names);
    return iter_error(it, dir, m);
}

enum err catalog_load(struct rocks *r, const char *dir, const struct store_catalog **out,
                      uint32_t *next_uid, struct errmsg *m)
{
    struct snapshot *n = snapshot_new(0);
    if (!n) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", dir);
    }
    /* One iterator is one moment: version and topics belong together. */
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(r->db, r->read_cached, r->cf[CF_META]);
    uint8_t key = ROW_CATALOG;
    enum err e = OK;
    iter_seek(it, &key, 1);
    if (!rocksdb_iter_valid(it)) {
        e = iter_error(it, dir, m);
        e = e == OK ? ERR_NOT_FOUND : e;
    } else {
        struct slice k = iter_key(it), v = iter_value(it);
        if (k.len != 1 || k.data[0] != ROW_CATALOG || v.len != CATALOG_ROW_BYTES) {
            e = err_set(m, ERR_NOT_FOUND, "store %s has no catalog", dir);
        } else {
            n->c.version = be64_get(v.data);
            n->next_uid = be32_get(v.data + 8);
            e = load_topics(n, it, dir, m);
        }
    }
    rocksdb_iter_destroy(it);
    if (e != OK) {
        snapshot_free(n);
        return e;
    }
    *next_uid = n->next_uid;
    *out = &n->c;
    return OK;
}

/* --- changes (writer) ------------------------------------------------------------------------- */

static bool name_valid(const char *name)
{
    size_t len = strnlen(name, STORE_NAME_BYTES_MAX + 1);
    if (len == 0 || len > STORE_NAME_BYTES_MAX || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0) {
        return false;
    }
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
           len;
}

static enum err topic_check(const struct store_topic *t, struct errmsg *m)
{
    if (!name_valid(t->name)) {
        return err_set(m, ERR_INVALID,
                       "a topic's name has 1 to %d of the characters a-z A-Z 0-9 . _ -, not "
                       "\"%.*s\"",
                       STORE_NAME_BYTES_MAX, STORE_NAME_BYTES_MAX, t->name);
    }
    if (t->partition_count < 1 || t->partition_count > STORE_PARTITIONS_MAX) {
        return err_set(m, ERR_INVALID, "topic %s: 1 to %d partitions, not %d", t->name,
                       STORE_PARTITIONS_MAX, t->partition_count);
    }
    if (t->retention_ms < -1 || t->retention_bytes < -1) {
        return err_set(m, ERR_INVALID, "topic %s: retention is -1 (none) or more", t->name);
    }
    const struct store_compaction *c = &t->compaction;
    if (t->segment_ms < 0 || t->segment_bytes < 0 ||
        (c->given && (!(c->min_cleanable_dirty_ratio >= 0 && c->min_cleanable_dirty_ratio <= 1) ||
                      c->min_compaction_lag_ms < 0 || c->max_compaction_lag_ms < 1 ||
                      c->delete_retention_ms < 0))) {
        return err_set(m, ERR_INVALID, "topic %s: a setting of its cleaning is out of range",
                       t->name);
    }
    if (t->attributes && strlen(t->attributes) > STORE_ATTRIBUTES_BYTES_MAX) {
        return err_set(m, ERR_INVALID, "topic %s: more than %u bytes of attributes", t->name,
                       STORE_ATTRIBUTES_BYTES_MAX);
    }
    return OK;
}

/* A copy of the newest snapshot without the topic `without` and with `with`, whose reference it
 * takes over when that works (both may be NULL). */
static struct snapshot *snapshot_change(struct store *s, const struct store_topic *without,
                                        struct node *with)
{
    const struct store_catalog *old = s->catalog; /* only this thread swaps it */
    struct snapshot *n = snapshot_new(old->count + 1);
    if (!n) {
        return NULL;
    }
    n->c.version = old->version + 1;
    bool placed = !with;
    for (size_t i = 0; i < old->count; i++) {
        const struct store_topic *t = &old->topics[i];
        if (!placed && compare_names(&with->t, t) <= 0) {
            n->c.topics[n->c.count++] = with->t;
            placed = true;
        }
        if (t != without) {
            n->c.topics[n->c.count++] = node_ref(node_of(t))->t;
        }
    }
    if (!placed) {
        n->c.topics[n->c.count++] = with->t;
    }
    return n;
}

/* The parts of a topic point to its node, which the writer's newest snapshot holds. */
static void attach_topic(struct store *s, const struct store_topic *t)
{
    for (int32_t k = 0; k < t->partition_count; k++) {
        part_get(s, store_topic_uid(t, k))->topic = &node_of(t)->t;
    }
}

void catalog_attach(struct store *s)
{
    for (size_t i = 0; i < s->catalog->count; i++) {
        attach_topic(s, &s->catalog->topics[i]);
    }
}

/* Writes b with the row of the new version, then publishes n. Takes n over. */
static enum err publish_change(struct store *s, rocksdb_writebatch_t *b, struct snapshot *n,
                               uint32_t next_uid, struct errmsg *m)
{
    uint8_t key = ROW_CATALOG, row[CATALOG_ROW_BYTES];
    be64_put(row, n->c.version);
    be32_put(row + 8, next_uid);
    batch_put(s->rocks, b, CF_META, slice_make(&key, 1), slice_make(row, sizeof row));
    enum err e = write_batch(s, b, m);
    if (e != OK) {
        snapshot_free(n);
        return e;
    }
    n->next_uid = next_uid;
    s->next_uid = next_uid;
    catalog_swap(s, &n->c);
    return OK;
}

/* Puts a topic's row, encoded into *row, which is empty. */
static enum err put_topic(struct store *s, rocksdb_writebatch_t *b, const struct store_topic *t,
                          struct buf *row)
{
    uint8_t key[UID_KEY_BYTES];
    topic_encode(row, t);
    if (buf_ok(row)) {
        uid_key_put(key, ROW_TOPIC, t->uid);
        batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), buf_slice(row));
    }
    return buf_ok(row) ? OK : ERR_NOMEM;
}

/* A topic comes, or takes the place of `old`: its row is written, its parts know it. */
static enum err publish_topic(struct store *s, const struct store_topic *old,
                              const struct store_topic *t, uint32_t next_uid, struct errmsg *m)
{
    struct buf row;
    buf_init(&row, TOPIC_ROW_BYTES_MAX);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    struct node *node = node_new(t);
    bool put = node && put_topic(s, b, &node->t, &row) == OK;
    struct snapshot *n = put ? snapshot_change(s, old, node) : NULL;
    enum err e = ERR_NOMEM;
    if (n) {
        e = publish_change(s, b, n, next_uid, m);
        if (e == OK) {
            attach_topic(s, &node->t);
        }
    } else {
        if (node) {
            node_unref(node);
        }
        err_set(m, e, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_destroy(b);
    buf_fini(&row);
    return e;
}

static void publish_version(struct store *s)
{
    struct page *p = atomic_load(&s->page);
    atomic_store_explicit(&p->h->next_uid, s->next_uid, memory_order_release);
    atomic_store_explicit(&p->h->catalog_version, s->catalog->version, memory_order_release);
    page_publish(p);
}

/* Room for partitions of the uids below next_uid, in memory and in the page. */
static enum err make_room(struct store *s, uint32_t next_uid, struct errmsg *m)
{
    if (parts_reserve(s, next_uid) != OK) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    return page_reserve(atomic_load(&s->page), next_uid, s->dir, m);
}

/* Partitions of these uids begin. */
static void begin_parts(struct store *s, uint32_t from, uint32_t to)
{
    struct page *p = atomic_load(&s->page);
    for (uint32_t uid = from; uid < to; uid++) {
        struct page_entry *entry = &p->entries[uid];
        atomic_store(&entry->log_start, 0);
        atomic_store(&entry->end, 0);
        atomic_store(&entry->durable, 0);
        atomic_store(&entry->epoch, 0);
        atomic_store_explicit(&entry->live, 1, memory_order_release);
    }
    publish_version(s);
}

uint32_t store_partitions_left(const struct store *s)
{
    return STORE_UIDS_MAX - s->next_uid;
}

enum err store_topic_create(struct store *s, struct store_topic *t, struct errmsg *m)
{
    enum err e = topic_check(t, m);
    if (e == OK && store_catalog_find(s->catalog, slice_str(t->name))) {
        e = err_set(m, ERR_EXISTS, "topic %s exists", t->name);
    }
    if (e == OK && (uint32_t)t->partition_count > STORE_UIDS_MAX - s->next_uid) {
        e = err_set(m, ERR_INVALID, "store %s: no more than %u partitions can ever be made",
                    s->dir, STORE_UIDS_MAX);
    }
    if (e != OK) {
        return e;
    }
    struct store_topic made = *t;
    made.id = uuid_is_zero(&t->id) ? uuid_random() : t->id;
    made.uid = s->next_uid;
    made.uids = NULL;
    made.created_ms = clock_wall_ms();
    uint32_t next_uid = s->next_uid + (uint32_t)t->partition_count;
    e = make_room(s, next_uid, m);
    if (e == OK) {
        e = publish_topic(s, NULL, &made, next_uid, m);
    }
    if (e != OK) {
        return e;
    }
    begin_parts(s, made.uid, next_uid);
    t->id = made.id;
    t->uid = made.uid;
    t->uids = NULL;
    t->created_ms = made.created_ms;
    return OK;
}

enum err store_topic_grow(struct store *s, struct slice name, int32_t count, struct errmsg *m)
{
    const struct store_topic *old = store_catalog_find(s->catalog, name);
    if (!old) {
        return err_set(m, ERR_NOT_FOUND, "no topic %.*s", (int)name.len, (const char *)name.data);
    }
    struct store_topic grown = *old;
    grown.partition_count = count;
    if (count <= old->partition_count) {
        return err_set(m, ERR_INVALID, "topic %s has %d partitions already", old->name,
                       old->partition_count);
    }
    enum err e = topic_check(&grown, m);
    uint32_t more = (uint32_t)(count - old->partition_count), from = s->next_uid;
    if (e == OK && more > STORE_UIDS_MAX - from) {
        e = err_set(m, ERR_INVALID, "store %s: no more than %u partitions can ever be made",
                    s->dir, STORE_UIDS_MAX);
    }
    if (e == OK) {
        e = space_check(s, m);
    }
    if (e == OK) {
        e = make_room(s, from + more, m);
    }
    if (e != OK) {
        return e;
    }
    uint32_t *uids = calloc((size_t)count, sizeof *uids);
    if (!uids) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    for (int32_t p = 0; p < count; p++) {
        bool old_one = p < old->partition_count;
        uids[p] = old_one ? store_topic_uid(old, p) : from + (uint32_t)(p - old->partition_count);
    }
    bool follow = uids[count - 1] == old->uid + (uint32_t)count - 1 && !old->uids;
    grown.uids = follow ? NULL : uids;
    e = publish_topic(s, old, &grown, from + more, m);
    free(uids);
    if (e == OK) {
        begin_parts(s, from, from + more);
    }
    return e;
}

/* t, but for what never changes: that is the old one's. */
static struct store_topic altered(const struct store_topic *t, const struct store_topic *old)
{
    struct store_topic changed = *t;
    changed.id = old->id;
    changed.uid = old->uid;
    changed.uids = old->uids;
    changed.partition_count = old->partition_count;
    changed.created_ms = old->created_ms;
    return changed;
}

enum err store_topic_alter(struct store *s, const struct store_topic *t, struct errmsg *m)
{
    const struct store_topic *old = store_catalog_find(s->catalog, slice_str(t->name));
    if (!old) {
        return err_set(m, ERR_NOT_FOUND, "no topic %s", t->name);
    }
    struct store_topic changed = altered(t, old);
    enum err e = topic_check(&changed, m);
    if (e == OK) {
        e = publish_topic(s, old, &changed, s->next_uid, m);
    }
    if (e == OK) {
        publish_version(s);
    }
    return e;
}

/* Alters a topic of a snapshot that nobody sees yet, and puts its row. */
static enum err alter_unseen(struct store *s, struct snapshot *n, rocksdb_writebatch_t *b,
                             const struct store_topic *t, struct errmsg *m)
{
    const struct store_topic *old = store_catalog_find(&n->c, slice_str(t->name));
    if (!old) {
        return err_set(m, ERR_NOT_FOUND, "no topic %s", t->name);
    }
    struct store_topic changed = altered(t, old);
    struct buf row;
    enum err e = topic_check(&changed, m);
    if (e != OK) {
        return e;
    }
    struct node *with = node_new(&changed), *was = node_of(old);
    buf_init(&row, TOPIC_ROW_BYTES_MAX);
    e = with ? put_topic(s, b, &with->t, &row) : ERR_NOMEM;
    buf_fini(&row);
    if (e != OK) {
        free(with);
        return err_set(m, e, "store %s: out of memory", s->dir);
    }
    n->c.topics[old - n->c.topics] = with->t; /* names stay, and so does the order */
    node_unref(was);
    return OK;
}

enum err store_topics_alter(struct store *s, const struct store_topic *topics, size_t count,
                            size_t *refused, struct errmsg *m)
{
    const struct store_catalog *old = s->catalog;
    struct snapshot *n = snapshot_new(old->count);
    *refused = 0;
    if (!n) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    n->c.version = old->version + 1;
    for (; n->c.count < old->count; n->c.count++) {
        n->c.topics[n->c.count] = node_ref(node_of(&old->topics[n->c.count]))->t;
    }
    enum err e = OK;
    for (size_t i = 0; i < count && e == OK; i++) {
        e = alter_unseen(s, n, b, &topics[i], m);
        if (e == ERR_INVALID || e == ERR_NOT_FOUND) {
            ++*refused;
            e = OK;
        }
    }
    if (e == OK && *refused < count) {
        e = publish_change(s, b, n, s->next_uid, m);
        if (e == OK) {
            catalog_attach(s);
            publish_version(s);
        }
    } else {
        snapshot_free(n);
    }
    rocksdb_writebatch_destroy(b);
    return e;
}

/* Rows of epochs and log starts go at once; index rows, which may be many, are swept by ticks. */
static void delete_rows(struct store *s, rocksdb_writebatch_t *b, uint32_t uid)
{
    uint8_t key[EPOCH_KEY_BYTES];
    struct page *p = atomic_load(&s->page);
    uid_key_put(key, ROW_LOG_START, uid);
    batch_delete(s->rocks, b, slice_make(key, UID_KEY_BYTES));
    uid_key_put(key, ROW_CLEAN, uid);
    batch_delete(s->rocks, b, slice_make(key, UID_KEY_BYTES));
    int32_t epochs = atomic_load(&p->entries[uid].epoch);
    for (int32_t i = 1; i <= epochs; i++) {
        epoch_key_put(key, uid, i);
        batch_delete(s->rocks, b, slice_make(key, EPOCH_KEY_BYTES));
    }
}

enum err store_topic_delete(struct store *s, struct slice name, struct errmsg *m)
{
    const struct store_topic *old = store_catalog_find(s->catalog, name);
    if (!old) {
        return err_set(m, ERR_NOT_FOUND, "no topic %.*s", (int)name.len, (const char *)name.data);
    }
    struct node *gone = node_ref(node_of(old)); /* its snapshot goes */
    struct snapshot *n = snapshot_change(s, old, NULL);
    if (!n) {
        node_unref(gone);
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_TOPIC, old->uid);
    batch_delete(s->rocks, b, slice_make(key, sizeof key));
    for (int32_t k = 0; k < gone->t.partition_count; k++) {
        delete_rows(s, b, store_topic_uid(&gone->t, k));
    }
    enum err e = publish_change(s, b, n, s->next_uid, m);
    rocksdb_writebatch_destroy(b);
    struct page *p = atomic_load(&s->page);
    for (int32_t k = 0; e == OK && k < gone->t.partition_count; k++) {
        uint32_t uid = store_topic_uid(&gone->t, k);
        part_get(s, uid)->topic = NULL;
        atomic_store_explicit(&p->entries[uid].live, 0, memory_order_release);
    }
    if (e == OK) {
        s->sweep_uid = 0;
        s->dead_cursor = 0;
        publish_version(s);
    }
    node_unref(gone);
    return e;
}
