/** One run of the benchmark: its servers, what it has measured so far, and our own processes while they are wanted. */
import { type CostPerNode, costPerNode, type Counters, readCounters, type Watched } from './costs.js'
import { type Engine, type Load, paceLoad, type SteadyLoad, timeLoad } from './in-flight.js'
import type { Lab } from './lab.js'
import type { Options, Sizes } from './options.js'
import type { Results } from './results.js'
import { startSystem, type System, type SystemOptions } from './system.js'
import { NODES } from './workflows.js'

export interface Stage {
	/** As on the command line. */
	readonly name: string
	/** Completes "measures …". */
	readonly summary: string
	/** One repetition of it. */
	run(session: Session): Promise<void>
	/** After the last repetition. */
	close?(): Promise<void>
}

/** Before anything is measured on processes of ours: caches, plans, connections. */
const WARM_UP_RUNS = 500

/** What `pace` is asked for. */
export type PacedLoad = Pick<SteadyLoad, 'workload' | 'inFlight'>

export class Session {
	readonly lab: Lab
	readonly results: Results
	readonly sizes: Sizes
	/** Costs of a node by measurement, of the last repetition. */
	readonly costs = new Map<string, CostPerNode>()
	readonly #options: Options
	readonly #profileFolder: string | undefined
	#system: System | undefined

	constructor(lab: Lab, results: Results, options: Options, profileFolder: string | undefined) {
		this.lab = lab
		this.results = results
		this.sizes = options.sizes
		this.#options = options
		this.#profileFolder = profileFolder
	}

	/** Our processes with one worker, started when they are first asked for, and warm. */
	async system(): Promise<System> {
		this.#system ??= await this.startSystem()
		return this.#system
	}

	/** Others of ours, for the caller to stop. */
	async startSystem(options: SystemOptions = {}): Promise<System> {
		const system = await startSystem(this.lab, {
			environment: this.#options.environment,
			profileFolder: this.#profileFolder,
			...options,
		})
		await timeLoad(system, { workload: 'chain-3', total: WARM_UP_RUNS, inFlight: WARM_UP_RUNS })
		return system
	}

	/** Nothing of ours runs while something else is measured. */
	async quiet(): Promise<void> {
		const system = this.#system
		this.#system = undefined
		await system?.stop()
	}

	/** Runs a load on an engine and notes nodes per second, and what a node costs, under this name. */
	async measure(
		name: string,
		engine: Engine & { readonly watched: Watched },
		load: Load,
		nodesPerRun = NODES[load.workload] ?? Number.NaN,
	): Promise<void> {
		await this.measureWork(name, engine.watched, load.total * nodesPerRun, () => timeLoad(engine, load))
	}

	/** The same for a load that goes on until the engine is warm, and then as long as the sizes say. */
	async pace(
		name: string,
		engine: Engine & { readonly watched: Watched },
		load: PacedLoad,
		nodesPerRun = NODES[load.workload] ?? Number.NaN,
	): Promise<void> {
		const { warmUpSeconds, paceSeconds } = this.sizes
		const { runs, seconds, before, after } = await paceLoad(
			engine,
			{ ...load, warmUpSeconds, seconds: paceSeconds },
			() => readCounters(engine.watched),
		)
		this.#note(name, runs * nodesPerRun, seconds, before, after)
	}

	/** The same for work of any kind, which tells how many seconds it took. */
	async measureWork(
		name: string,
		watched: Watched,
		nodes: number,
		work: () => Promise<number>,
	): Promise<void> {
		const before = await readCounters(watched)
		const seconds = await work()
		this.#note(name, nodes, seconds, before, await readCounters(watched))
	}

	#note(name: string, nodes: number, seconds: number, before: Counters, after: Counters): void {
		this.costs.set(name, costPerNode(before, after, nodes))
		this.results.add(name, nodes / seconds, 'nodes/s')
	}
}
