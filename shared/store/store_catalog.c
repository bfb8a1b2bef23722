/* Topics: rows in meta, and immutable snapshots of them in memory.
 *
 *   't' uid   name length u16 | name | id 16 | partitions u32 | created i64 | retention ms i64 |
 *             retention bytes i64 | cleanup u32 | attributes length u32 | attributes
 *
 * A change is one WriteBatch: the topic's row, and the 'c' row with the next version and the next
 * uid. It is written at once, apart from what is pending, so that a topic exists before its first
 * batch can. Then a new snapshot takes the place of the old one, and the page's catalog version
 * moves, by which followers know that they have to load theirs.
 *
 * Snapshots are counted. Whoever holds one keeps it; the store only ever swaps the newest. */
#include "shared/store/store_int.h"

#include <stdio.h>

#include "shared/base/clock.h"

#define TOPIC_ROW_BYTES_MAX (STORE_ATTRIBUTES_BYTES_MAX + 1024)
#define TOPICS_MAX          STORE_UIDS_MAX

struct snapshot {
    struct store_catalog c; /* first: the pointer that callers hold */
    _Atomic int refs;
    uint32_t next_uid;
};

static struct snapshot *snapshot_of(const struct store_catalog *c)
{
    return (struct snapshot *)(void *)(uintptr_t)c;
}

static void snapshot_free(struct snapshot *n)
{
    for (size_t i = 0; i < n->c.count; i++) {
        free(n->c.topics[i].attributes);
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

static void topic_encode(struct buf *b, const struct store_topic *t)
{
    size_t name_len = strlen(t->name);
    size_t attributes_len = strlen(t->attributes);
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
}

static enum err topic_decode(struct store_topic *t, uint32_t uid, struct slice value)
{
    struct reader r = reader_make(value);
    struct slice name = reader_bytes(&r, reader_be16(&r));
    struct slice id = reader_bytes(&r, sizeof t->id.b);
    *t = (struct store_topic){.uid = uid};
    t->partition_count = (int32_t)reader_be32(&r);
    t->created_ms = (int64_t)reader_be64(&r);
    t->retention_ms = (int64_t)reader_be64(&r);
    t->retention_bytes = (int64_t)reader_be64(&r);
    t->cleanup = reader_be32(&r);
    struct slice attributes = reader_bytes(&r, reader_be32(&r));
    if (r.failed || name.len > STORE_NAME_BYTES_MAX || t->partition_count < 1 ||
        t->partition_count > STORE_PARTITIONS_MAX) {
        return ERR_CORRUPT;
    }
    memcpy(t->name, name.data, name.len);
    memcpy(t->id.b, id.data, sizeof t->id.b);
    t->attributes = calloc(1, attributes.len + 1);
    if (!t->attributes) {
        return ERR_NOMEM;
    }
    if (attributes.len > 0) {
        memcpy(t->attributes, attributes.data, attributes.len);
    }
    return OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct store_topic *)a)->name, ((const struct store_topic *)b)->name);
}

static enum err snapshot_add(struct snapshot *n, size_t *cap, const struct store_topic *t)
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
    n->c.topics[n->c.count++] = *t;
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
        struct store_topic t;
        enum err e = topic_decode(&t, be32_get(k.data + 1), iter_value(it));
        if (e != OK) {
            return err_set(m, e, "store %s: the row of topic %u cannot be read", dir,
                           be32_get(k.data + 1));
        }
        e = snapshot_add(n, &cap, &t);
        if (e != OK) {
            free(t.attributes);
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
    if (t->attributes && strlen(t->attributes) > STORE_ATTRIBUTES_BYTES_MAX) {
        return err_set(m, ERR_INVALID, "topic %s: more than %u bytes of attributes", t->name,
                       STORE_ATTRIBUTES_BYTES_MAX);
    }
    return OK;
}

/* A copy of the newest snapshot without the topic `without` and with `with` (both may be NULL). */
static struct snapshot *snapshot_change(struct store *s, const struct store_topic *without,
                                        const struct store_topic *with)
{
    const struct store_catalog *old = s->catalog; /* only this thread swaps it */
    struct snapshot *n = snapshot_new(old->count + 1);
    if (!n) {
        return NULL;
    }
    n->c.version = old->version + 1;
    for (size_t i = 0; i <= old->count; i++) {
        const struct store_topic *from = i < old->count ? &old->topics[i] : with;
        if (!from || from == without) {
            continue;
        }
        struct store_topic *t = &n->c.topics[n->c.count];
        *t = *from;
        t->attributes = strdup(from->attributes ? from->attributes : "");
        if (!t->attributes) {
            snapshot_free(n);
            return NULL;
        }
        n->c.count++;
    }
    qsort(n->c.topics, n->c.count, sizeof *n->c.topics, compare_names);
    return n;
}

/* The topics of the parts point into the writer's snapshot. */
static void attach_topics(struct store *s, const struct store_catalog *c)
{
    for (size_t i = 0; i < c->count; i++) {
        for (int32_t k = 0; k < c->topics[i].partition_count; k++) {
            part_get(s, c->topics[i].uid + (uint32_t)k)->topic = &c->topics[i];
        }
    }
}

void catalog_attach(struct store *s)
{
    attach_topics(s, s->catalog);
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
    attach_topics(s, &n->c);
    s->next_uid = next_uid;
    catalog_swap(s, &n->c);
    return OK;
}

static void publish_version(struct store *s)
{
    struct page *p = atomic_load(&s->page);
    atomic_store_explicit(&p->h->next_uid, s->next_uid, memory_order_release);
    atomic_store_explicit(&p->h->catalog_version, s->catalog->version, memory_order_release);
    page_publish(p);
}

enum err store_topic_create(struct store *s, struct store_topic *t, struct errmsg *m)
{
    enum err e = topic_check(t, m);
    if (e == OK && store_catalog_find(s->catalog, slice_str(t->name))) {
        e = err_set(m, ERR_EXISTS, "topic %s exists", t->name);
    }
    if (e == OK && (uint32_t)t->partition_count > STORE_UIDS_MAX - s->next_uid) {
        e = err_set(m, ERR_FULL, "store %s has made %u partitions in its life: that is all", s->dir,
                    s->next_uid);
    }
    if (e == OK) {
        e = space_check(s, m);
    }
    if (e != OK) {
        return e;
    }
    struct store_topic made = *t;
    made.id = uuid_is_zero(&t->id) ? uuid_random() : t->id;
    made.uid = s->next_uid;
    made.created_ms = clock_wall_ms();
    made.attributes = t->attributes ? t->attributes : (char[]){""};
    uint32_t next_uid = s->next_uid + (uint32_t)t->partition_count;
    e = parts_reserve(s, next_uid);
    if (e != OK) {
        return err_set(m, e, "store %s: out of memory", s->dir);
    }
    struct page *p = atomic_load(&s->page);
    e = page_reserve(p, next_uid, s->dir, m);
    struct snapshot *n = e == OK ? snapshot_change(s, NULL, &made) : NULL;
    if (!n) {
        return e != OK ? e : err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    struct buf row;
    buf_init(&row, TOPIC_ROW_BYTES_MAX);
    topic_encode(&row, &made);
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_TOPIC, made.uid);
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), buf_slice(&row));
    if (buf_ok(&row)) {
        e = publish_change(s, b, n, next_uid, m);
    } else {
        snapshot_free(n);
        e = err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_destroy(b);
    buf_fini(&row);
    if (e != OK) {
        return e;
    }
    for (uint32_t uid = made.uid; uid < next_uid; uid++) {
        struct page_entry *entry = &p->entries[uid];
        atomic_store(&entry->log_start, 0);
        atomic_store(&entry->end, 0);
        atomic_store(&entry->durable, 0);
        atomic_store(&entry->epoch, 0);
        atomic_store_explicit(&entry->live, 1, memory_order_release);
    }
    publish_version(s);
    t->id = made.id;
    t->uid = made.uid;
    t->created_ms = made.created_ms;
    return OK;
}

enum err store_topic_alter(struct store *s, const struct store_topic *t, struct errmsg *m)
{
    enum err e = topic_check(t, m);
    const struct store_topic *old = store_catalog_find(s->catalog, slice_str(t->name));
    if (e == OK && !old) {
        e = err_set(m, ERR_NOT_FOUND, "no topic %s", t->name);
    }
    if (e != OK) {
        return e;
    }
    struct store_topic changed = *old;
    changed.retention_ms = t->retention_ms;
    changed.retention_bytes = t->retention_bytes;
    changed.cleanup = t->cleanup;
    changed.attributes = t->attributes ? t->attributes : (char[]){""};
    struct snapshot *n = snapshot_change(s, old, &changed);
    struct buf row;
    buf_init(&row, TOPIC_ROW_BYTES_MAX);
    topic_encode(&row, &changed);
    if (!n || !buf_ok(&row)) {
        if (n) {
            snapshot_free(n);
        }
        buf_fini(&row);
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_TOPIC, changed.uid);
    batch_put(s->rocks, b, CF_META, slice_make(key, sizeof key), buf_slice(&row));
    e = publish_change(s, b, n, s->next_uid, m);
    rocksdb_writebatch_destroy(b);
    buf_fini(&row);
    if (e == OK) {
        publish_version(s);
    }
    return e;
}

/* Rows of epochs and log starts go at once; index rows, which may be many, are swept by ticks. */
static void delete_rows(struct store *s, rocksdb_writebatch_t *b, uint32_t uid)
{
    uint8_t key[EPOCH_KEY_BYTES];
    struct page *p = atomic_load(&s->page);
    uid_key_put(key, ROW_LOG_START, uid);
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
    uint32_t from = old->uid, to = old->uid + (uint32_t)old->partition_count;
    for (size_t i = 0; i < s->touched.count; i++) {
        if (s->touched.uids[i] >= from && s->touched.uids[i] < to) {
            return err_set(m, ERR_AGAIN, "topic %s has batches that wait for a commit", old->name);
        }
    }
    struct snapshot *n = snapshot_change(s, old, NULL);
    if (!n) {
        return err_set(m, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rocksdb_writebatch_t *b = rocksdb_writebatch_create();
    uint8_t key[UID_KEY_BYTES];
    uid_key_put(key, ROW_TOPIC, from);
    batch_delete(s->rocks, b, slice_make(key, sizeof key));
    for (uint32_t uid = from; uid < to; uid++) {
        delete_rows(s, b, uid);
        part_get(s, uid)->topic = NULL;
    }
    enum err e = publish_change(s, b, n, s->next_uid, m);
    rocksdb_writebatch_destroy(b);
    if (e != OK) {
        catalog_attach(s);
        return e;
    }
    struct page *p = atomic_load(&s->page);
    for (uint32_t uid = from; uid < to; uid++) {
        atomic_store_explicit(&p->entries[uid].live, 0, memory_order_release);
    }
    s->sweep_uid = 0;
    s->dead_cursor = 0;
    publish_version(s);
    return OK;
}
