/** Ids of runs. */

/** A UUIDv7: sorts by time of creation, so that new rows go to the end of their indexes. */
export function newRunId(): string {
	const bytes = crypto.getRandomValues(new Uint8Array(16))
	const now = Date.now()
	for (let i = 0; i < 6; i++) bytes[i] = Math.floor(now / 2 ** (8 * (5 - i))) % 256
	bytes[6] = ((bytes[6] as number) & 0x0f) | 0x70
	bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80
	const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
	return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** Whether a run can have this id: Postgres holds neither NUL nor half of a surrogate pair. */
export function canBeRunId(text: string): boolean {
	return !text.includes('\u0000') && text.isWellFormed()
}
