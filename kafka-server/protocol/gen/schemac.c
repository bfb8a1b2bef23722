/* schemac: kafka.schema → the structs and const tables of all messages. A host tool, run by make.
 *
 *     schemac kafka.schema kafka_messages.h kafka_messages.c
 *
 * The schema is read line by line into a tree of nodes: a message is a node whose children are its
 * fields, a field that is a struct has children of its own. The indentation says who is whose
 * child. The tree is then walked a few times, each walk printing one kind of thing. Only data is
 * generated: codec.c is the one function that knows what to do with it.
 *
 * Mistakes in the schema end the run with file, line and a sentence; limits are those of
 * codec.h. */
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODE_MAX     4096
#define API_MAX      128
#define NAME_BYTES   256 /* of a path of names in C */
#define LINE_BYTES   256
#define WORD_MAX     12
#define DEPTH_MAX    8 /* CODEC_DEPTH_MAX */
#define TAGS_MAX     8 /* CODEC_TAGS_MAX */
#define VERSION_MAX  126
#define VERSION_NONE 127 /* CODEC_VERSION_NONE */
#define INDENT       4

struct type {
    const char *name; /* in the schema */
    const char *c;    /* in C */
    const char *code; /* enum codec_type */
    int wire_min;     /* bytes on the wire that it needs at least */
};

static const struct type types[] = {
    {"bool", "bool", "CODEC_BOOL", 1},
    {"int8", "int8_t", "CODEC_INT8", 1},
    {"int16", "int16_t", "CODEC_INT16", 2},
    {"uint16", "uint16_t", "CODEC_UINT16", 2},
    {"int32", "int32_t", "CODEC_INT32", 4},
    {"int64", "int64_t", "CODEC_INT64", 8},
    {"float64", "double", "CODEC_FLOAT64", 8},
    {"uuid", "struct uuid", "CODEC_UUID", 16},
    {"string", "struct kstr", "CODEC_STRING", 1},
    {"bytes", "struct kbytes", "CODEC_BYTES", 1},
    {"records", "struct krecords", "CODEC_RECORDS", 1},
    {"{}", NULL, "CODEC_STRUCT", 0},
};
#define TYPE_STRUCT (&types[sizeof types / sizeof types[0] - 1])

struct span {
    int min, max;
};

/* A message (parent NULL) or a field. */
struct node {
    struct node *parent, *child, *next; /* first child, next sibling */
    int line;
    char name[64];           /* as Kafka writes it */
    char snake[64];          /* as C does */
    const struct type *type; /* of the element if array */
    bool array;
    struct span versions;
    int null_min; /* VERSION_NONE: never null */
    int tag;      /* -1: plain */
    bool default_null, ignorable;
    char fallback[32]; /* a C expression */
    int flexible_min;  /* of the message */
};

struct api {
    char name[64];
    int key;
    struct span versions;
    int flexible_min;
    struct node *request, *response;
};

static struct node nodes[NODE_MAX];
static int node_count;
static struct api apis[API_MAX];
static int api_count;
static const char *schema_path;
static int line_no;

static _Noreturn void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: ", schema_path, line_no);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* NodeId → node_id, LastKnownELR → last_known_elr. */
static void snake_from(const char *name, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; name[i]; i++) {
        bool starts = isupper((unsigned char)name[i]) && i > 0 &&
                      (!isupper((unsigned char)name[i - 1]) || islower((unsigned char)name[i + 1]));
        if (n + 3 > size) {
            fail("name %s is too long", name);
        }
        if (starts) {
            out[n++] = '_';
        }
        out[n++] = (char)tolower((unsigned char)name[i]);
    }
    out[n] = 0;
}

/* Copies text into out, all of it. */
static void text_copy(char *out, size_t size, const char *text)
{
    if (strlen(text) >= size) {
        fail("%s is too long", text);
    }
    memcpy(out, text, strlen(text) + 1);
}

static void name_copy(char *out, size_t size, const char *name)
{
    if (!isalpha((unsigned char)name[0])) {
        fail("%s is not a name", name);
    }
    text_copy(out, size, name);
}

static int number(const char *word, int max)
{
    char *end;
    long v = strtol(word, &end, 10);
    if (*end || end == word || v < 0 || v > max) {
        fail("%s is not a number between 0 and %d", word, max);
    }
    return (int)v;
}

/* "3+", "3-7" or "3", inside `within`. */
static struct span span_parse(const char *word, struct span within)
{
    char copy[32];
    text_copy(copy, sizeof copy, word);
    struct span s;
    char *dash = strchr(copy, '-');
    size_t n = strlen(copy);
    if (dash) {
        *dash = 0;
        s = (struct span){number(copy, VERSION_MAX), number(dash + 1, VERSION_MAX)};
    } else if (n > 0 && copy[n - 1] == '+') {
        copy[n - 1] = 0;
        s = (struct span){number(copy, VERSION_MAX), within.max};
    } else {
        int v = number(copy, VERSION_MAX);
        s = (struct span){v, v};
    }
    if (s.min > s.max || s.min < within.min || s.max > within.max) {
        fail("versions %s are not inside %d-%d", word, within.min, within.max);
    }
    return s;
}

static struct node *node_new(struct node *parent)
{
    if (node_count == NODE_MAX) {
        fail("more than %d fields", NODE_MAX);
    }
    struct node *n = &nodes[node_count++];
    n->line = line_no;
    n->parent = parent;
    n->null_min = VERSION_NONE;
    n->tag = -1;
    text_copy(n->fallback, sizeof n->fallback, "0");
    if (parent) {
        n->versions = parent->versions;
        n->flexible_min = parent->flexible_min;
        struct node **last = &parent->child;
        while (*last) {
            last = &(*last)->next;
        }
        *last = n;
    }
    return n;
}

/* api NAME KEY versions A-B [flexible C+] */
static void api_parse(char **w, int count)
{
    if (count != 5 && count != 7) {
        fail("write: api NAME KEY versions FIRST-LAST [flexible FIRST+]");
    }
    if (api_count == API_MAX) {
        fail("more than %d APIs", API_MAX);
    }
    struct api *a = &apis[api_count++];
    name_copy(a->name, sizeof a->name, w[1]);
    a->key = number(w[2], INT16_MAX);
    a->versions = span_parse(w[4], (struct span){0, VERSION_MAX});
    a->flexible_min = VERSION_NONE;
    if (strcmp(w[3], "versions") != 0 || (count == 7 && strcmp(w[5], "flexible") != 0)) {
        fail("write: api NAME KEY versions FIRST-LAST [flexible FIRST+]");
    }
    if (count == 7) {
        a->flexible_min = span_parse(w[6], a->versions).min;
    }
    for (int i = 0; i < api_count - 1; i++) {
        if (apis[i].key == a->key || strcmp(apis[i].name, a->name) == 0) {
            fail("api %s has the name or the key of another one", a->name);
        }
    }
}

static struct node *message_parse(const char *kind)
{
    bool request = strcmp(kind, "request") == 0;
    if (!request && strcmp(kind, "response") != 0) {
        fail("%s: only api, request and response begin a line", kind);
    }
    if (api_count == 0) {
        fail("%s stands before its api", kind);
    }
    struct api *a = &apis[api_count - 1];
    struct node **slot = request ? &a->request : &a->response;
    if (*slot) {
        fail("%s has two messages of kind %s", a->name, kind);
    }
    struct node *m = node_new(NULL);
    snprintf(m->name, sizeof m->name, "%.50s%s", a->name, request ? "Request" : "Response");
    snake_from(m->name, m->snake, sizeof m->snake);
    m->type = TYPE_STRUCT;
    m->versions = a->versions;
    m->flexible_min = a->flexible_min;
    *slot = m;
    return m;
}

/* [] of struct, []int32, string, string?, string?7+, {}, {}? */
static void type_parse(struct node *f, char *word, bool *null, char **null_from)
{
    *null = false;
    *null_from = NULL;
    char *mark = strchr(word, '?');
    if (mark) {
        *mark = 0;
        *null = true;
        *null_from = mark[1] ? mark + 1 : NULL;
    }
    if (strncmp(word, "[]", 2) == 0) {
        f->array = true;
        word = word[2] ? word + 2 : "{}";
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(word, types[i].name) == 0) {
            f->type = &types[i];
        }
    }
    if (!f->type) {
        fail("%s is not a type", word);
    }
    bool can_be_null = f->array || f->type == TYPE_STRUCT || strcmp(word, "string") == 0 ||
                       strcmp(word, "bytes") == 0 || strcmp(word, "records") == 0;
    if (*null && !can_be_null) {
        fail("%s cannot be null", word);
    }
}

static void default_parse(struct node *f, const char *word, bool nullable)
{
    if (strcmp(word, "null") == 0) {
        if (!nullable) {
            fail("%s is not nullable: no default null", f->name);
        }
        f->default_null = true;
    } else if (strcmp(word, "true") == 0 && strcmp(f->type->name, "bool") == 0) {
        text_copy(f->fallback, sizeof f->fallback, "1");
    } else {
        char *end;
        long long v = strtoll(word, &end, 0);
        if (*end || end == word || strstr(f->type->name, "int") == NULL || f->array) {
            fail("%s cannot be the default of %s", word, f->name);
        }
        /* C has no literal for INT64_MIN; none of Kafka's defaults is. */
        snprintf(f->fallback, sizeof f->fallback, "INT64_C(%lld)", v);
    }
}

/* NAME TYPE [VERSIONS] [tag N] [= DEFAULT] [ignorable] */
static struct node *field_parse(struct node *parent, char **w, int count)
{
    if (count < 2) {
        fail("write: NAME TYPE [VERSIONS] [tag N] [= DEFAULT] [ignorable]");
    }
    if (parent->type != TYPE_STRUCT) {
        fail("%s has no fields of its own", parent->name);
    }
    for (struct node *c = parent->child; c; c = c->next) {
        if (strcmp(c->name, w[0]) == 0) {
            fail("%s is there twice", w[0]);
        }
    }
    struct node *f = node_new(parent);
    bool null;
    char *null_from;
    name_copy(f->name, sizeof f->name, w[0]);
    snake_from(f->name, f->snake, sizeof f->snake);
    type_parse(f, w[1], &null, &null_from);
    int i = 2;
    if (i < count && isdigit((unsigned char)w[i][0])) {
        f->versions = span_parse(w[i++], parent->versions);
    }
    if (null) {
        f->null_min = null_from ? span_parse(null_from, f->versions).min : f->versions.min;
    }
    for (; i < count; i++) {
        if (strcmp(w[i], "ignorable") == 0) {
            f->ignorable = true;
        } else if (strcmp(w[i], "tag") == 0 && i + 1 < count) {
            f->tag = number(w[++i], TAGS_MAX - 1);
        } else if (strcmp(w[i], "=") == 0 && i + 1 < count) {
            default_parse(f, w[++i], null);
        } else {
            fail("%s is not an attribute", w[i]);
        }
    }
    if (f->type == TYPE_STRUCT && !f->array && null && !f->default_null) {
        fail("%s: a struct that may be null is null by default; write = null", f->name);
    }
    if (f->tag >= 0 && f->versions.min < f->flexible_min) {
        fail("%s has a tag in versions that are not flexible", f->name);
    }
    return f;
}

static int words_split(char *line, char **w)
{
    static const char space[] = " \n";
    int count = 0;
    for (char *p = line + strspn(line, space); *p; p += strspn(p, space)) {
        if (count == WORD_MAX) {
            fail("more than %d words", WORD_MAX);
        }
        w[count++] = p;
        p += strcspn(p, space);
        if (*p) {
            *p++ = 0;
        }
    }
    return count;
}

static void schema_read(FILE *in)
{
    char line[LINE_BYTES];
    struct node *open[DEPTH_MAX + 1] = {0}; /* the last node of each depth */
    int depth_open = -1;
    while (fgets(line, sizeof line, in)) {
        line_no++;
        if (!strchr(line, '\n')) {
            fail("line longer than %d bytes", LINE_BYTES - 2);
        }
        char *w[WORD_MAX];
        char *hash = strchr(line, '#');
        if (hash) {
            *hash = 0;
        }
        size_t indent = strspn(line, " ");
        int count = words_split(line, w);
        if (count == 0) {
            continue;
        }
        int depth = (int)(indent / INDENT);
        if (indent % INDENT != 0 || depth > depth_open + 1) {
            fail("indented by %zu: a field stands %d columns right of what it belongs to", indent,
                 INDENT);
        }
        if (depth > DEPTH_MAX) {
            fail("more than %d levels", DEPTH_MAX);
        }
        if (depth > 0) {
            open[depth] = field_parse(open[depth - 1], w, count);
            depth_open = depth;
        } else if (strcmp(w[0], "api") == 0) {
            api_parse(w, count);
            depth_open = -1;
        } else {
            open[0] = message_parse(w[0]);
            depth_open = 0;
        }
    }
}

static void schema_check(void)
{
    for (int i = 0; i < node_count; i++) {
        line_no = nodes[i].line;
        if (nodes[i].parent && nodes[i].type == TYPE_STRUCT && !nodes[i].child) {
            fail("%s is a struct without fields", nodes[i].name);
        }
    }
    for (int i = 0; i < api_count; i++) {
        if (!apis[i].request || !apis[i].response) {
            fail("%s lacks its request or its response", apis[i].name);
        }
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

/* fetch_request_topics_partitions, or FetchRequest.Topics.Partitions; returns its length. */
static size_t path_of(const struct node *n, bool c_name, char *out)
{
    size_t len = n->parent ? path_of(n->parent, c_name, out) : 0;
    size_t left = NAME_BYTES - len;
    int more = snprintf(out + len, left, "%s%s", !n->parent ? "" : c_name ? "_" : ".",
                        c_name ? n->snake : n->name);
    if ((size_t)more >= left) {
        fail("the path of %s is too long", n->name);
    }
    return len + (size_t)more;
}

static int wire_bytes_min(const struct node *m)
{
    int sum = m->flexible_min <= m->versions.min ? 1 : 0;
    for (const struct node *f = m->child; f; f = f->next) {
        bool always =
            f->tag < 0 && f->versions.min == m->versions.min && f->versions.max == m->versions.max;
        if (!always) {
            continue;
        }
        if (f->array || f->null_min != VERSION_NONE) {
            sum += 1;
        } else {
            sum += f->type == TYPE_STRUCT ? wire_bytes_min(f) : f->type->wire_min;
        }
    }
    return sum;
}

static void struct_print(FILE *h, const struct node *m)
{
    char path[NAME_BYTES];
    for (const struct node *f = m->child; f; f = f->next) {
        if (f->type == TYPE_STRUCT) {
            struct_print(h, f);
        }
    }
    path_of(m, true, path);
    fprintf(h, "struct %s {\n", path);
    for (const struct node *f = m->child; f; f = f->next) {
        bool pointer = f->array || (f->type == TYPE_STRUCT && f->null_min != VERSION_NONE);
        if (f->type == TYPE_STRUCT) {
            path_of(f, true, path);
            fprintf(h, "    struct %s %s%s;\n", path, pointer ? "*" : "", f->snake);
        } else {
            fprintf(h, "    %s %s%s;\n", f->type->c, pointer ? "*" : "", f->snake);
        }
        if (f->array) {
            fprintf(h, "    int32_t %s_count;\n", f->snake);
        }
    }
    path_of(m, true, path);
    fprintf(h, "};\nextern const struct codec_message %s_message;\n\n", path);
}

static void field_print(FILE *c, const struct node *m, const struct node *f)
{
    char path[NAME_BYTES];
    path_of(m, true, path);
    fprintf(c, "    {.name = \"%s\", .type = %s, .offset = offsetof(struct %s, %s),", f->snake,
            f->type->code, path, f->snake);
    if (f->array) {
        fprintf(c, "\n     .array = true, .count_offset = offsetof(struct %s, %s_count),", path,
                f->snake);
    }
    if (f->type == TYPE_STRUCT) {
        path_of(f, true, path);
        fprintf(c, "\n     .sub = &%s_message,", path);
    }
    fprintf(c, "\n     .version_min = %d, .version_max = %d, .null_min = %d, .tag = %d,",
            f->versions.min, f->versions.max, f->null_min, f->tag);
    fprintf(c, " .fallback = %s%s%s%s},\n", f->fallback,
            f->null_min != VERSION_NONE ? ", .nullable = true" : "",
            f->default_null ? ", .default_null = true" : "",
            f->ignorable ? ", .ignorable = true" : "");
}

static void table_print(FILE *c, const struct node *m)
{
    char path[NAME_BYTES];
    int plain = 0;
    int count = 0;
    for (const struct node *f = m->child; f; f = f->next) {
        if (f->type == TYPE_STRUCT) {
            table_print(c, f);
        }
        plain += f->tag < 0;
        count++;
    }
    path_of(m, true, path);
    if (count > 0) {
        fprintf(c, "static const struct codec_field %s_fields[] = {\n", path);
    }
    for (int tag = -1; tag < TAGS_MAX; tag++) {
        for (const struct node *f = m->child; f; f = f->next) {
            if (f->tag == tag) {
                field_print(c, m, f);
            }
        }
    }
    fprintf(c, "%sconst struct codec_message %s_message = {\n    ", count > 0 ? "};\n" : "", path);
    if (count > 0) {
        fprintf(c, ".fields = %s_fields, .field_count = %d, .plain_count = %d,\n    ", path, count,
                plain);
    }
    fprintf(c, ".struct_bytes = sizeof(struct %s), .wire_bytes_min = %d,\n", path,
            wire_bytes_min(m));
    path_of(m, false, path);
    fprintf(c, "    .name = \"%s\", .version_min = %d, .version_max = %d, .flexible_min = %d};\n\n",
            path, m->versions.min, m->versions.max, m->flexible_min);
}

static void header_print(FILE *h)
{
    fprintf(h, "/* Made from kafka.schema by schemac: change the schema, not this file. */\n"
               "#ifndef CULEX_KAFKA_MESSAGES_H\n#define CULEX_KAFKA_MESSAGES_H\n\n"
               "#include \"kafka-server/protocol/codec.h\"\n\nenum kafka_api_key {\n");
    for (int i = 0; i < api_count; i++) {
        char snake[64];
        snake_from(apis[i].name, snake, sizeof snake);
        for (char *p = snake; *p; p++) {
            *p = (char)toupper((unsigned char)*p);
        }
        fprintf(h, "    KAFKA_API_%s = %d,\n", snake, apis[i].key);
    }
    fprintf(h, "};\n\n");
    for (int i = 0; i < api_count; i++) {
        struct_print(h, apis[i].request);
        struct_print(h, apis[i].response);
    }
    fprintf(h, "#endif\n");
}

static int api_compare(const void *a, const void *b)
{
    return ((const struct api *)a)->key - ((const struct api *)b)->key;
}

static void source_print(FILE *c)
{
    fprintf(c,
            "/* Made from kafka.schema by schemac: change the schema, not this file. */\n"
            "#include \"kafka_messages.h\"\n#include \"kafka-server/protocol/codec_table.h\"\n\n");
    for (int i = 0; i < api_count; i++) {
        table_print(c, apis[i].request);
        table_print(c, apis[i].response);
    }
    fprintf(c, "const struct codec_api codec_apis[] = {\n");
    for (int i = 0; i < api_count; i++) {
        const struct api *a = &apis[i];
        fprintf(c, "    {%d, \"%s\", %d, %d, ", a->key, a->name, a->versions.min, a->versions.max);
        if (a->flexible_min == VERSION_NONE) {
            fprintf(c, "INT16_MAX");
        } else {
            fprintf(c, "%d", a->flexible_min);
        }
        fprintf(c, ", &%s_message, &%s_message},\n", a->request->snake, a->response->snake);
    }
    fprintf(c, "};\nconst size_t codec_api_count = %d;\n", api_count);
}

static void file_write(const char *path, void (*print)(FILE *))
{
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        exit(1);
    }
    print(f);
    if (ferror(f) | fclose(f)) {
        fprintf(stderr, "%s: cannot be written\n", path);
        remove(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: schemac SCHEMA HEADER SOURCE\n");
        return 2;
    }
    schema_path = argv[1];
    FILE *in = fopen(schema_path, "r");
    if (!in) {
        perror(schema_path);
        return 1;
    }
    schema_read(in);
    fclose(in);
    schema_check();
    qsort(apis, (size_t)api_count, sizeof apis[0], api_compare);
    file_write(argv[2], header_print);
    file_write(argv[3], source_print);
    return 0;
}
