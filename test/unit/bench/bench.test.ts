/** The parts of the benchmark that judge: a figure that is wrong there looks like a fact. */
import { describe, expect, it } from 'vitest'
import { limits, needFor } from '../../bench/calculator.js'
import { compare } from '../../bench/comparisons.js'
import { costPerNode } from '../../bench/costs.js'
import { type Engine, paceLoad, timeLoad } from '../../bench/in-flight.js'
import { parseMetrics } from '../../bench/metrics.js'
import { readOptions } from '../../bench/options.js'
import { Results } from '../../bench/results.js'
import { median, percentile } from '../../bench/statistics.js'
import { table } from '../../bench/table.js'

describe('statistics', () => {
	it('takes the middle sample, and the mean of the middle two', () => {
		expect(median([9, 1, 5])).toBe(5)
		expect(median([4, 1, 2, 9])).toBe(3)
		expect(median([])).toBeNaN()
	})

	it('takes as a percentile the smallest sample that covers so many', () => {
		const hundred = Array.from({ length: 100 }, (_, i) => 100 - i)
		expect(percentile(hundred, 0.5)).toBe(50)
		expect(percentile(hundred, 0.99)).toBe(99)
		expect(percentile([7], 0.5)).toBe(7)
	})
})

describe('comparisons', () => {
	const results = new Results()
	// The second repetition was disturbed, on both sides.
	for (const value of [1_000, 100, 900]) results.add('ours', value, 'nodes/s')
	for (const value of [100, 10, 100]) results.add('theirs', value, 'nodes/s')

	it('divides figures of the same repetition, so that noise hits both sides', () => {
		expect(results.ratio('ours', 'theirs')).toBe(10)
		expect(results.ratio('ours', 'nobody')).toBeUndefined()
	})

	it('says what is reached and what is not, and leaves out what was not measured', () => {
		const verdicts = compare(results, [
			{ name: 'at least', of: 'ours', against: 'theirs', atLeast: 10 },
			{ name: 'more than there is', of: 'ours', against: 'theirs', atLeast: 10.1 },
			{ name: 'at most', of: 'theirs', against: 'ours', atMost: 0.1 },
			{ name: 'less than there is', of: 'theirs', atMost: 99 },
			{ name: 'no goal', of: 'ours', against: 'theirs' },
			{ name: 'not measured', of: 'ours', against: 'nobody', atLeast: 1 },
		])
		expect(verdicts.map(({ name, isReached }) => [name, isReached])).toEqual([
			['at least', true],
			['more than there is', false],
			['at most', true],
			['less than there is', false],
			['no goal', undefined],
		])
	})
})

describe('load', () => {
	it('keeps as many runs in flight as asked for, and ends with the last of them', async () => {
		let live = 0
		let started = 0
		let most = 0
		const engine: Engine = {
			start: async (_, count) => {
				started += count
				live += count
				most = Math.max(most, live)
			},
			live: async () => {
				live = Math.max(live - 3, 0)
				return live
			},
		}
		await timeLoad(engine, { workload: 'any', total: 20, inFlight: 5 })
		expect({ started, most, live }).toEqual({ started: 20, most: 5, live: 0 })
	})

	it('measures what ends once it is warm, from one end to another, and leaves nothing running', async () => {
		let live = 0
		const engine: Engine = {
			start: async (_, count) => void (live += count),
			live: async () => {
				live = Math.max(live - 2, 0)
				return live
			},
		}
		const begin = performance.now()
		let reads = 0
		const { runs, seconds, before, after } = await paceLoad(
			engine,
			{ workload: 'any', inFlight: 4, warmUpSeconds: 0.2, seconds: 0.3 },
			async () => (reads += 1),
		)
		expect([before, after, reads]).toEqual([1, 2, 2])
		expect(live).toBe(0)
		expect(seconds).toBeGreaterThanOrEqual(0.3)
		expect(performance.now() - begin).toBeGreaterThanOrEqual(500)
		// Two end whenever it looks.
		expect(runs % 2).toBe(0)
		expect(runs).toBeGreaterThan(0)
	})
})

describe('costs', () => {
	const counters = {
		walBytes: 1_000,
		statements: 10,
		messages: 5,
		cpu: { worker: 1 },
	}

	it('spreads the difference over the nodes', () => {
		const after = { ...counters, walBytes: 3_000, statements: 30, messages: 15, cpu: { worker: 1.5 } }
		expect(costPerNode(counters, after, 10)).toEqual({
			walBytes: 200,
			statements: 2,
			messages: 1,
			cpuMs: { worker: 50 },
		})
	})

	it('adds up the metrics of a process by name, whatever their labels', () => {
		const text = '# HELP a b\nflowcraft_x_total{process="relay"} 12\nother 1.5\n'
		expect(parseMetrics(text)).toEqual(
			new Map([
				['flowcraft_x_total', 12],
				['other', 1.5],
			]),
		)
	})

	it('finds what saturates first, and how much a rate needs', () => {
		const cost = {
			walBytes: 3_000,
			statements: 0.1,
			messages: 1,
			cpuMs: { worker: 0.3, relay: 0.06, postgres: 0.2, rabbitmq: 0.1 },
		}
		const capacity = {
			utilisation: 0.5,
			postgresCores: 16,
			walBytesPerSecond: 100_000_000,
			messagesPerQueue: 10_000,
		}
		expect(limits(cost, capacity)[0]).toEqual({
			of: 'a worker process (one core)',
			nodesPerSecond: 0.5 / 0.000_3,
		})
		expect(needFor(100_000, cost, capacity)).toMatchObject({
			workers: 60,
			relays: 12,
			postgresCores: 40,
			databases: 6,
			queues: 20,
			walBytesPerSecond: 300_000_000,
		})
	})
})

describe('the command line', () => {
	it('refuses a stage that there is not, and a faulty number', () => {
		expect(() => readOptions(['--only', 'chain,chian'], ['chain'])).toThrow(
			/no stage chian; there are chain/,
		)
		expect(() => readOptions(['--repetitions', '0'], [])).toThrow(/at least 1/)
		expect(() => readOptions(['--env', 'CONCURRENCY'], [])).toThrow(/NAME=VALUE/)
	})

	it('reads variables for the processes, equals signs included', () => {
		const { environment, repetitions } = readOptions(['--env', 'A=b=c', '--quick'], [])
		expect({ environment, repetitions }).toEqual({ environment: { A: 'b=c' }, repetitions: 1 })
	})
})

it('aligns figures to the right', () => {
	expect(table(['a', 'b'], [['long', '1']])).toBe('a     b\n────  ─\nlong  1')
})
