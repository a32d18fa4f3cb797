/** No SQL is built from input: every place where a statement's text has a hole is known, and what fills it is ours. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PROJECT_ROOT } from '../support/process.js'

/** What may fill a hole anywhere, because it can be nothing of a client's. */
const OURS: readonly RegExp[] = [
	// A constant.
	/^[A-Z][A-Z0-9_]*$/,
	// A column, named in the source.
	/^isoColumn\('[\w.]+'\)$/,
	// A number that was made by Math.min and Math.max.
	/^limit \+ 1$/,
	// `$1::text::int[], $2::…`, of as many columns as there are, with the types that stand beside them.
	/^placeholders(\(columns\))?$/,
	// One of two texts that stand in the source.
	/^[\w.]+(\.length)? === \w+ \? '[^']*' : '[^']*'$/,
]

/** What may fill one hole alone, and why. */
const KNOWN: readonly string[] = [
	// What `isoColumn` is called with, see above.
	'src/db/query.ts: column',
	// Conditions from the source; what they compare with is pushed onto the parameters.
	"src/run/read.ts: conditions.length > 0 ? `where ${conditions.join(' and ')}` : ''",
]

/** Where a statement's text is not handed on from `query`, but made: of constants, or of parts that `query` was given. */
const RAW: readonly string[] = [
	'worker/relay/alarm.ts',
	'src/db/query.ts',
	'src/db/schema.ts',
	'worker/db/migrate.ts',
	'worker/embedded/postgres.ts',
]

const files = ['src', 'functions', 'worker'].flatMap((room) =>
	(readdirSync(join(PROJECT_ROOT, room), { recursive: true }) as string[])
		.filter((file) => file.endsWith('.ts'))
		.map((file) => join(room, file)),
)

/** The template literals of a source, with their holes. */
function templates(source: string): { text: string; holes: string[]; isTagged: boolean }[] {
	const found: ReturnType<typeof templates> = []
	const read = (from: number): number => {
		const holes: string[] = []
		let at = from
		while (at < source.length && source[at] !== '`') {
			if (source[at] === '\\') {
				at += 2
			} else if (source.startsWith('${', at)) {
				const begin = at + 2
				let depth = 1
				at = begin
				while (depth > 0) {
					if (source[at] === '`') at = read(at + 1)
					else if (source[at] === '{') depth += 1
					else if (source[at] === '}') depth -= 1
					at += 1
				}
				holes.push(source.slice(begin, at - 1))
			} else {
				at += 1
			}
		}
		// Of a tagged one, postgres.js makes parameters of the holes.
		const isTagged = /\b(tx|sql)$/.test(source.slice(Math.max(0, from - 10), from - 1))
		found.push({ text: source.slice(from, at), holes, isTagged })
		return at
	}
	for (let at = source.indexOf('`'); at !== -1; at = source.indexOf('`', at)) at = read(at + 1) + 1
	return found
}

const IS_SQL =
	/^\s*(with\s+\w+\s+as|select\s|insert\s+into|update\s+flowcraft|delete\s+from|lock\s|create\s+(database|schema|or)|drop\s|to_char\()/i

test('every hole in the text of a statement is one that is known', () => {
	const holes = new Set<string>()
	for (const file of files) {
		const source = readFileSync(join(PROJECT_ROOT, file), 'utf8').replaceAll(
			/^\s*(\*|\/\/|\/\*).*$/gm,
			'',
		)
		for (const template of templates(source)) {
			if (template.isTagged || !IS_SQL.test(template.text)) continue
			for (const hole of template.holes) holes.add(`${file}: ${hole.replaceAll(/\s+/g, ' ')}`)
		}
	}
	const strange = [...holes].filter((hole) => {
		const filling = hole.slice(hole.indexOf(': ') + 2)
		return !KNOWN.includes(hole) && !OURS.some((pattern) => pattern.test(filling))
	})
	expect(strange).toEqual([])
	// What is excused has to be there, or the excuse would wait for somebody else.
	expect(KNOWN.filter((hole) => !holes.has(hole))).toEqual([])
})

test('statements are made of text in few places', () => {
	const raw = files.filter((file) =>
		/\.unsafe(?:<[^>]*>)?\((?!\.\.\.|text\b|'[^']*')|\b(?:sql|drizzleSql)\.raw\(/.test(
			readFileSync(join(PROJECT_ROOT, file), 'utf8'),
		),
	)
	expect(raw.filter((file) => !RAW.includes(file))).toEqual([])
})

test('what looks for holes finds them', () => {
	expect(templates('query(`select ${a} from x ${b ? `where ${c}` : ""}`)')).toEqual([
		{ text: 'where ${c}', holes: ['c'], isTagged: false },
		{
			text: 'select ${a} from x ${b ? `where ${c}` : ""}',
			holes: ['a', 'b ? `where ${c}` : ""'],
			isTagged: false,
		},
	])
})
