# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: RUF001 - Chinese has its own commas
"""The prompts of comparisons: prose, code, numbers, data, several languages.

They are short, because log-probabilities of a prompt cost an instance memory for each of its tokens and each word of
the vocabulary. One passes 128 tokens: a CPU instance's first block of KV cache.
"""

PROMPTS = (
    (
        "The capital of France is Paris. The capital of Italy is Rome. "
        "The capital of Spain is Madrid, and the capital of Germany is"
    ),
    (
        "Water boils at 100 degrees Celsius at sea level, because its vapour pressure then equals that of the air "
        "around it. On a high mountain it boils at"
    ),
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n        return n\n    return',
    (
        "SELECT customer.name, SUM(orders.amount) AS total\nFROM customer\n"
        "JOIN orders ON orders.customer_id = customer.id\nGROUP BY"
    ),
    "1, 2, 4, 8, 16, 32, 64, 128, 256, 512,",
    "17 + 25 = 42\n38 + 44 = 82\n123 + 456 = 579\n250 + 250 =",
    '{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", "computing"], "died":',
    "中国的首都是北京，法国的首都是巴黎，日本的首都是",
    "人工智能是计算机科学的一个分支，它研究如何让机器像人一样思考、学习和解决问题。机器学习是",
    "Dear customer,\n\nthank you for your order of 3 March. Unfortunately the article is out of stock; we expect to",
    (
        "The quick brown fox jumps over the lazy dog. Der schnelle braune Fuchs springt über den faulen Hund. "
        "Le rapide renard brun saute"
    ),
    (
        "A lighthouse is a tower with a strong lamp at its top, built on the coast or on a rock in the sea to "
        "guide ships at night and in bad weather. The oldest ones burned wood, later oil and gas, and the light "
        "was gathered by mirrors. In 1822 Augustin Fresnel built a lens of many rings of glass, which is much "
        "lighter than a solid one of the same strength and sends nearly all of the light out to the horizon. "
        "Every lighthouse has a rhythm of its own, so that sailors can tell it from its neighbours on the chart. "
        "Today most of them run without a keeper, and since satellites tell every ship where it is, many have "
        "become"
    ),
)
