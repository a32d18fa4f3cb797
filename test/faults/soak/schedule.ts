/**
 * Which fault comes next, and when: drawn from a shuffled deck that holds every fault at least once and frequent ones
 * several times, so that no kind is left to chance. The same seed gives the same deck; the moments are the machine's.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Fault, faultsFor } from '../lab/faults.js'
import type { Lab } from '../lab/lab.js'
import { createRandom, type Random } from '../lab/random.js'

export interface Schedule {
	/** How often each fault has struck. */
	readonly struck: ReadonlyMap<string, number>
	/** Strikes until `until`, by `performance.now()`. Resolves when the last harm is mended. */
	run(until: number): Promise<void>
}

/** Faults at once, on different targets: one mends what it has harmed, which must not be another one's. */
const STRIKERS = 2
const MIN_PAUSE_MS = 100
/**
 * RabbitMQ 3.10 that is killed within half a second of a queue's declaration may never serve that queue again: it is
 * declared anew when it was deleted, so that the broker is left alive for a while after that; in ms.
 */
const YOUNG_QUEUE_MS = 8_000
const DELETES_QUEUE = /queue deleted|exchange deleted|queue unbound/
const KILLS_BROKER = /rabbitMq: killed/

/** @param maxPauseMs the longest pause between two faults of one striker */
export function createSchedule(lab: Lab, seed: number, maxPauseMs: number): Schedule {
	const random = createRandom(seed)
	const faults = faultsFor(lab)
	const struck = new Map<string, number>()
	const busy = new Set<string>()
	let deck: Fault[] = []
	let queueDeletedAt = Number.NEGATIVE_INFINITY

	/** `postgres: …`, `worker: …` */
	const targetOf = (fault: Fault): string => fault.name.split(':')[0] ?? fault.name
	const isFree = (fault: Fault): boolean =>
		!busy.has(targetOf(fault)) &&
		!(KILLS_BROKER.test(fault.name) && performance.now() - queueDeletedAt < YOUNG_QUEUE_MS)

	function draw(): Fault | undefined {
		if (deck.length === 0)
			deck = random.shuffle(
				faults.flatMap((fault) =>
					Array.from({ length: Math.max(1, Math.round(fault.weight / 2)) }, () => fault),
				),
			)
		const place = deck.findLastIndex(isFree)
		return place < 0 ? undefined : deck.splice(place, 1)[0]
	}

	async function strike(until: number, own: Random): Promise<void> {
		for (;;) {
			await delay(own.between(MIN_PAUSE_MS, maxPauseMs))
			if (performance.now() >= until) return
			const fault = draw()
			if (fault === undefined) continue
			const target = targetOf(fault)
			busy.add(target)
			try {
				await fault.strike(lab, own)
			} finally {
				busy.delete(target)
				if (DELETES_QUEUE.test(fault.name)) queueDeletedAt = performance.now()
			}
			struck.set(fault.name, (struck.get(fault.name) ?? 0) + 1)
		}
	}

	return {
		struck,
		async run(until) {
			await Promise.all(
				Array.from({ length: STRIKERS }, (_, place) => strike(until, createRandom(seed + 1 + place))),
			)
		},
	}
}
