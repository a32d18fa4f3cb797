/** Fields that several requests have. */
import { z } from '@hono/zod-openapi'

/** An id as Postgres, logs and URLs can carry it. */
export const identifier = (description: string) =>
	z
		.string()
		.min(1, 'must not be empty')
		.max(256, 'must not be longer than 256 characters')
		.refine(
			(id) => !id.includes('\u0000') && id.isWellFormed(),
			'must not contain NUL or half of a surrogate pair',
		)
		.openapi({ description })

/** A time span, in ms once it is read. */
export const duration = (description: string) =>
	z
		.string()
		.regex(/^\d{1,9}(\.\d{1,9})?(ms|s|m)?$/, 'must be a duration such as 20s, 500ms or 1m')
		.transform(toMs)
		.openapi({ type: 'string', description, example: '20s' })

function toMs(text: string): number {
	const amount = Number.parseFloat(text)
	if (text.endsWith('ms')) return amount
	return amount * (text.endsWith('m') ? 60_000 : 1000)
}

/** Which page of a list, and how long it is. */
export const pageFields = (defaultLimit: number, maxLimit: number) => ({
	limit: z
		.string()
		.regex(/^\d{1,9}$/, 'must be a whole number')
		.transform(Number)
		.refine((limit) => limit >= 1 && limit <= maxLimit, `must be from 1 to ${maxLimit}`)
		.optional()
		.openapi({
			type: 'integer',
			minimum: 1,
			maximum: maxLimit,
			default: defaultLimit,
			example: defaultLimit,
		}),
	cursor: z.string().optional().openapi({
		description: '`nextCursor` of the page before.',
		example: 'WyIyMDI2LTAzLTAxIDEyOjAwOjAwKzAwIiwiMDE5MmQzYzQiXQ',
	}),
})

export const generationSchema = z.string().openapi({
	description:
		'Which turn of the loops around the node, outermost first: `2.5`. `0`: the first, or in no loop.',
	example: '0',
})

/** What a node threw. */
export const errorSchema = z
	.looseObject({
		message: z.string(),
		name: z.string().optional(),
		stack: z.string().optional(),
		isFatal: z.boolean().optional(),
	})
	.openapi('NodeError')

/** Any JSON object, handed on as it was parsed: a record would be copied, and lose a key named `__proto__`. */
export const objectValue = z.custom<Record<string, unknown>>(
	(value) => typeof value === 'object' && value !== null && !Array.isArray(value),
	'must be an object',
)
