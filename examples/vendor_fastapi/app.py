"""A vendor's own server: it knows nothing of payments. The gateway in front of it takes the money, and only for answers
with success."""

from fastapi import FastAPI, HTTPException

LARGEST = 2_000

app = FastAPI(title="Primes")


@app.get("/status")
def status() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/primes/{number}")
def prime(number: int) -> dict[str, int]:
    """The prime with this number, counted from 1. What is out of range is a 422, which costs nobody anything."""
    if not 1 <= number <= LARGEST:
        raise HTTPException(422, f"ask for a prime between number 1 and {LARGEST}")
    return {"number": number, "prime": _primes(number)[-1]}


@app.post("/factors")
def factors(numbers: list[int]) -> dict[int, list[int]]:
    """The prime factors of each number."""
    return {number: _factors(number) for number in numbers if 2 <= number <= 1_000_000}


def _primes(count: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


def _factors(number: int) -> list[int]:
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found
