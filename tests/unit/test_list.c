/* Arrays that grow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/list.h"

static void test_a_list_grows_and_keeps_what_it_has(void **state)
{
    uint32_t *list = NULL;
    size_t room = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        assert_true(list_reserve(&list, &room, i + 1, sizeof *list));
        assert_true(room > i);
        list[i] = i;
    }
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(list[i], i);
    }
    free(list);
}

static void test_many_at_once(void **state)
{
    uint64_t *list = NULL;
    size_t room = 0;
    assert_true(list_reserve(&list, &room, 5000, sizeof *list));
    assert_true(room >= 5000);
    uint64_t *was = list;
    assert_true(list_reserve(&list, &room, 4999, sizeof *list));
    assert_ptr_equal(list, was);
    free(list);
}

static void test_what_no_memory_can_hold_changes_nothing(void **state)
{
    uint64_t *list = NULL;
    size_t room = 0;
    assert_true(list_reserve(&list, &room, 1, sizeof *list));
    uint64_t *was = list;
    size_t had = room;
    assert_false(list_reserve(&list, &room, SIZE_MAX / 4, sizeof *list));
    assert_false(list_reserve(&list, &room, SIZE_MAX, 1));
    assert_ptr_equal(list, was);
    assert_int_equal(room, had);
    free(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_grows_and_keeps_what_it_has),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_what_no_memory_can_hold_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
