"""Names that may stand before an opening parenthesis in a query. Everything else is refused.

Left out on purpose: whatever reads anything but its arguments (files, settings, the catalog, the
environment, sequences), whatever is random, and whatever makes a large value of small ones (`repeat`,
`lpad`, `range`, `format` with a width, `bar`): DuckDB's memory limit does not hold inside scalar functions.
"""

from __future__ import annotations

AGGREGATES = """
    any_value approx_count_distinct approx_quantile arbitrary arg_max arg_max_null arg_min arg_min_null
    array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if count_star countif covar_pop
    covar_samp entropy favg first fsum geomean geometric_mean group_concat grouping kahan_sum kurtosis
    kurtosis_pop last list listagg mad max max_by mean median min min_by mode percentile_cont
    percentile_disc product quantile quantile_cont quantile_disc regr_avgx regr_avgy regr_count
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness stddev stddev_pop stddev_samp
    string_agg sum sum_no_overflow sumkahan var_pop var_samp variance wavg weighted_avg
"""
WINDOWS = """
    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense
    row_number
"""
STRINGS = """
    array_extract ascii bit_length char_length character_length chr concat concat_ws contains
    damerau_levenshtein editdist3 ends_with hamming instr jaccard jaro_similarity jaro_winkler_similarity
    lcase left left_grapheme len length length_grapheme levenshtein like_escape lower ltrim mismatches
    nfc_normalize not_like_escape ord position prefix regexp_extract regexp_full_match regexp_matches
    regexp_replace replace reverse right right_grapheme rtrim split split_part starts_with str_split
    string_split string_to_array strip_accents strlen strpos substr substring substring_grapheme suffix
    translate trim ucase unicode upper
"""
NUMBERS = """
    abs acos acosh add asin asinh atan atan2 atanh cbrt ceil ceiling cos cosh cot degrees divide even exp
    fdiv floor fmod gamma gcd greatest greatest_common_divisor isfinite isinf isnan lcm least
    least_common_multiple lgamma ln log log10 log2 mod multiply nextafter pi pow power radians round
    round_even roundbankers sign signbit sin sinh sqrt subtract tan tanh trunc xor
"""
DATES = """
    age century current_date current_localtime current_localtimestamp current_timestamp date_add date_diff
    date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek
    dayofyear days_in_month decade epoch epoch_ms epoch_us era extract get_current_time
    get_current_timestamp hour isodow isoyear julian last_day make_date make_time make_timestamp microsecond
    millennium millisecond minute month monthname now quarter second strftime strptime time_bucket timezone
    to_centuries to_days to_decades to_hours to_microseconds to_milliseconds to_minutes to_months
    to_quarters to_seconds to_timestamp to_weeks to_years today transaction_timestamp try_strptime week
    weekday weekofyear year yearweek
"""
LISTS_AND_OTHERS = """
    array_contains array_has array_length array_position array_to_string coalesce if ifnull list_avg
    list_concat list_contains list_count list_distinct list_element list_extract list_first list_has
    list_last list_max list_min list_position list_reverse_sort list_slice list_sort list_sum list_unique
    list_value nullif try typeof
"""
FUNCTIONS = frozenset(" ".join((AGGREGATES, WINDOWS, STRINGS, NUMBERS, DATES, LISTS_AND_OTHERS)).split())

# Words of the grammar that a parenthesis may follow: clauses, operators, casts and types.
KEYWORDS = frozenset(
    """
    all and any array as asc between bigint by case cast char character cross cube date datetime decimal
    desc distinct double else end escape except exclude exists filter float following from full
    group having ilike in inner int integer intersect interval is join lateral left like limit
    materialized not nulls numeric offset on or order outer over partition preceding qualify real replace
    right rollup rows select semi anti asof sets similar smallint some text then time timestamp timestamptz
    tinyint to try_cast union using values varchar when where window with within
    """.split()
)

# Read without parentheses, these are functions that tell about the session.
SESSION_NAMES = frozenset(
    "current_catalog current_database current_query current_role current_schema current_schemas"
    " current_user session_user system_user user".split()
)

# What these tell depends on when they are asked: with parentheses or, some of them, without.
CLOCK = frozenset(
    "age current_date current_localtime current_localtimestamp current_time current_timestamp get_current_time"
    " get_current_timestamp localtime localtimestamp now today transaction_timestamp".split()
)
