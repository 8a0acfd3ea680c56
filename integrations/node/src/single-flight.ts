/** The running loads of one process: callers for one key share a load, unless an invalidation came after its start. */
import type { Listener } from "./invalidations.js";

interface Flight {
  value: Promise<unknown>;
  tags: string[];
  isBegun: boolean;
  /** Its value may be older than a change of the key or of a tag. */
  isOvertaken: boolean;
}

export class SingleFlight {
  readonly #flights = new Map<string, Flight>();

  /** Marks the loads that began before a change. */
  readonly overtake: Listener = {
    everything: () => this.#mark(() => true),
    key: (key) => this.#mark((_flight, of) => of === key),
    tags: (tags) => this.#mark((flight) => flight.tags.some((tag) => tags.includes(tag))),
  };

  run<T>(key: string, tags: string[], load: () => Promise<T>): Promise<T> {
    const before = this.#flights.get(key);
    if (before && !before.isOvertaken) return before.value as Promise<T>;
    const flight: Flight = { value: Promise.resolve(), tags, isBegun: false, isOvertaken: false };
    const begin = () => {
      flight.isBegun = true;
      return load();
    };
    // Starts after the previous load, which would otherwise store its older value under the lease of this one.
    const value = (before ? before.value.then(begin, begin) : begin()).finally(() => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    });
    flight.value = value;
    this.#flights.set(key, flight);
    return value;
  }

  #mark(isOvertaken: (flight: Flight, key: string) => boolean): void {
    for (const [key, flight] of this.#flights) if (flight.isBegun && isOvertaken(flight, key)) flight.isOvertaken = true;
  }
}
