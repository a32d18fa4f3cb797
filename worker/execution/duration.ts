/** Durations as blueprints write them. */

const UNIT_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
/** A hundred years: beyond that something is wrong, and at some point Postgres has no such time. */
const MAX_DURATION_MS = 100 * 365 * 86_400_000

/** For error messages. */
export const DURATION_FORMS = "milliseconds, or text like '5m', '10s', '1h', '2d'"

/** In ms: a number of ms, or text like `5m`, `10s`, `1h`, `2d`; undefined for anything else. */
export function parseDuration(value: unknown): number | undefined {
	const ms = toMs(value)
	return ms !== undefined && ms >= 0 && ms <= MAX_DURATION_MS ? ms : undefined
}

function toMs(value: unknown): number | undefined {
	if (typeof value === 'number') return value
	if (typeof value !== 'string') return undefined
	const [, amount, unit] = /^(\d+)([smhd])$/.exec(value) ?? []
	return amount === undefined || unit === undefined ? undefined : Number(amount) * (UNIT_MS[unit] as number)
}
