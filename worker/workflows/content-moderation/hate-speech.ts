/**
 * Scores hate speech with a list of phrases. Demo-grade, and kept printable: it knows threats, calls for violence
 * and dehumanising phrases in English, no slurs, and understands neither irony nor quotation nor negation.
 */
import type { HateSpeechClassifier, HateSpeechFinding } from './detectors.js'
import { spellings } from './text.js'

interface Rule {
	readonly reason: string
	readonly points: number
	/** Matched against lower-case words separated by single spaces. */
	readonly pattern: RegExp
}

/** From here on a post is severe; below it and above zero, moderate. */
const SEVERE_POINTS = 3
const MOST_POINTS = 6

const PEOPLE =
	'(?:people|immigrants|migrants|foreigners|refugees|strangers|outsiders|minorities|women|men|unbelievers|neighbou?rs)'
const GROUP = `(?:(?:(?:all|every|the|these|those|your|their|such|filthy|dirty|damn|of|last) ){0,4}${PEOPLE}|(?:your|their) kind)`
const KILL = '(?:kill|murder|slaughter|lynch|exterminate|eradicate|gas)'
/** Words with harmless meanings ("shoot people at weddings"): they need "all", "these" and the like after them. */
const MAYBE_KILL =
	'(?:shoot|hang|burn|stab|wipe out|get rid of) (?=(?:all|every|these|those|your|their|such|filthy) )'
const SOMEONE =
	'(?:you|him|her|them|your family|your children|every one of you|all of you|you all|you people)'
const BRUTES =
	'(?:vermin|cockroaches|subhumans?|sub humans?|less than human|not (?:even )?human|parasites|rats|maggots|animals|filth|a plague|a disease|a cancer)'

const RULES: readonly Rule[] = [
	rule(
		'threat of violence',
		3,
		`(?:i|we)(?: ?ll| will| shall| am going to| are going to| am gonna| are gonna| gonna| want to)(?: \\w+ and)? ${KILL} ${SOMEONE}`,
	),
	rule('threat of violence', 3, `(?:i|we) know where you live`),
	rule('call for violence against a group', 3, `(?:${KILL} |${MAYBE_KILL})${GROUP}`),
	rule(
		'call for violence against a group',
		3,
		`(?:${GROUP}|they|you(?: people| all)?)(?: all)? (?:deserve to die|deserve death|(?:should|must|need to)(?: all)? (?:die|hang|burn|be (?:shot|killed|hanged|gassed|exterminated|put down|wiped out)))`,
	),
	rule(
		'dehumanising language',
		2,
		`(?:${GROUP}|they|you(?: people| all)?) are (?:all |just |nothing but |no better than |a bunch of |like ){0,3}${BRUTES}`,
	),
	rule('dehumanising language', 2, 'subhumans?|untermenschen'),
	rule('slur', 2, 'exampleslur|slur placeholder'),
	rule('hostility towards a group', 1, `go back to (?:where you (?:came|come) from|your (?:own )?country)`),
	rule(
		'hostility towards a group',
		1,
		`${GROUP} (?:do not|dont|does not|doesnt) belong here|we (?:do not|dont) want your kind`,
	),
	rule('hostility towards a group', 1, `(?:i|we) (?:really |just |so )?(?:hate|despise) ${GROUP}`),
	rule(
		'hostility towards a group',
		1,
		`${GROUP} are (?:all )?(?:criminals|thieves|stupid|lazy|inferior|worthless|disgusting)`,
	),
	rule('insult', 1, 'you are (?:all )?(?:scum|worthless|garbage|trash)|filthy (?:scum|pigs?)'),
]

function rule(reason: string, points: number, words: string): Rule {
	return { reason, points, pattern: new RegExp(`(?<!\\S)(?:${words})(?!\\S)`, 'u') }
}

export function createWordListHateSpeechClassifier(): HateSpeechClassifier {
	return { classify: async (text) => classifyHateSpeech(text) }
}

/** Every rule counts once, however often it matches. */
export function classifyHateSpeech(text: string): HateSpeechFinding {
	const variants = spellings(text)
	const matched = RULES.filter(({ pattern }) => variants.some((variant) => pattern.test(variant)))
	const points = matched.reduce((sum, { points }) => sum + points, 0)
	return {
		severity: points >= SEVERE_POINTS ? 'severe' : points > 0 ? 'moderate' : 'none',
		score: Math.min(points, MOST_POINTS) / MOST_POINTS,
		reasons: [...new Set(matched.map(({ reason }) => reason))],
	}
}
