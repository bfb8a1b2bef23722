/* One life of a group of the consumer protocol, line by line. */
#ifndef CULEX_TESTS_CGROUP_SCRIPT_H
#define CULEX_TESTS_CGROUP_SCRIPT_H

enum what { START, CLASSIC, STATIC, LEAVE, AWAY, DIE, TOPIC };

struct line {
    enum what what;
    int client, arg; /* topics that it reads, by bit; TOPIC: which, and its partitions */
};

static const struct line script[] = {
    {START, 0, 7},  {START, 1, 7},   {START, 2, 0},   {TOPIC, 0, 6}, {STATIC, 3, 7}, {AWAY, 3, 0},
    {STATIC, 3, 7}, {CLASSIC, 4, 7}, {TOPIC, 2, 0},   {LEAVE, 1, 0}, {DIE, 0, 0},    {TOPIC, 2, 5},
    {LEAVE, 2, 0},  {LEAVE, 3, 0},   {CLASSIC, 5, 3}, {START, 0, 7}, {LEAVE, 4, 0},  {DIE, 5, 0},
    {START, 1, 4},  {TOPIC, 1, 9},   {LEAVE, 0, 0},   {START, 2, 7},
};

#endif
