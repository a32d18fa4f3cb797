// @ts-check
/**
 * Preloaded (`NODE_OPTIONS=--import=…`) into a process whose wall clock is to be wrong by CLOCK_OFF_HOURS. The monotonic
 * clock, by which timers run, is right, as on a machine whose date was set wrong.
 */
const offMs = Number(process.env['CLOCK_OFF_HOURS'] ?? 0) * 3_600_000
const now = Date.now.bind(Date)

globalThis.Date = new Proxy(Date, {
	construct(target, args, newTarget) {
		return Reflect.construct(target, args.length === 0 ? [now() + offMs] : args, newTarget)
	},
	get(target, property, receiver) {
		return property === 'now' ? () => now() + offMs : Reflect.get(target, property, receiver)
	},
})
