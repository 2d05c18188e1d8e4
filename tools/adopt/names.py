"""Names that fields of tracking data have in public data sets and trackers, by the column that they stand for."""

import re

# Compared without case and punctuation, the likeliest first.
EVENTS = {
    "time": (
        "time event_time event_timestamp timestamp ts unix_time epoch occurred_at created_at client_time derived_tstamp"
        " original_timestamp collector_tstamp server_time received_at sent_at date_time datetime invoice_date"
        " order_date purchase_date order_timestamp checkin_time check_in_time play_time played_at listened_at viewed_at"
        " rated_at unix_review_time review_time submitted_at start_time starttime date event_date utc_time"
    ),
    "event_id": "event_id message_id insert_id event_uuid uuid guid record_id id",
    "user_id": (
        "user_id uid user customer_id customer cust_id member_id account_id subscriber_id profile_id visitor_id visitor"
        " reviewer_id listener_id viewer_id reader_id player_id person_id client_id steam_id user_name login author_id"
        " user_pseudo_id anonymous_id distinct_id device_id domain_userid network_userid full_visitor_id cookie_id"
        " household_id household_key mc_id"
    ),
    "item_id": (
        "item_id item product_id product prod_id sku product_sku stock_code article_id article asin parent_asin isbn"
        " movie_id movie film_id track_id song_id song track video_id video episode_id show_id artist_id artist book_id"
        " book news_id story_id content_id anime_id game_id game app_id recipe_id venue_id venue location_id poi_id"
        " business_id gmap_id place_id hotel_id listing_id listing ad_id offer_id deal_id course_id job_id post_id"
        " doc_id document_id subject_id object_id photo_id channel_id restaurant_id ti_sku"
    ),
    "type": (
        "event_name event_type event action action_type behavior behavior_type behaviour interaction interaction_type"
        " activity activity_type verb type event_action operation"
    ),
    "session_id": "session_id user_session ga_session_id domain_sessionid visit_id session sess_id session_key",
    "quantity": "quantity qty units unit_count order_quantity item_quantity num_units",
    "unit_price": "unit_price price item_price product_price sale_price price_usd sales_price",
    "value": (
        "value rating ratings score stars overall book_rating review_score grade rate weight plays play_count"
        " playcount listen_count listens hours playtime watch_time watch_seconds duration dwell_time seconds"
        " amount revenue total"
    ),
    "platform": "platform os_name device_category device_type client_platform os operating_system device app_platform",
    "country": "country country_code geo_country country_name ip_country",
    "request_id": "request_id recommendation_id rec_id impression_id",
    "position": "position rank slot item_list_index",
}
ITEMS = {
    "item_id": EVENTS["item_id"] + " id",
    "name": (
        "name title item_name product_name product_title display_name movie_title track_name song_title book_title"
        " description label headline item_title"
    ),
    "family": (
        "family category category_code category_name main_category product_type category_id genre genres department"
        " brand artist artist_name group section topic cuisine"
    ),
    "available_from": "available_from valid_from published_at publish_time start_date on_sale_from",
    "available_until": "available_until valid_until valid_to expires_at end_date on_sale_until",
    "time": "updated_at modified_at last_modified timestamp seen created_at",
}
USERS = {
    "user_id": EVENTS["user_id"] + " id",
    "time": "time changed_at event_time timestamp created_at signup_date registered_at date ts start_date",
    "change": "change change_type event event_type action type status",
    "plan": "plan plan_name subscription subscription_type tier package product level",
    "country": EVENTS["country"],
    "platform": EVENTS["platform"],
}
KINDS = {"events": EVENTS, "items": ITEMS, "users": USERS}
# Names that say what an event without a type is, and its type: of the value's field, then of the file.
TYPES_BY_VALUE = {
    "rating": "rating ratings score stars overall book_rating review_score grade rate",
    "play": "plays play_count playcount listen_count listens hours playtime watch_time watch_seconds",
}
TYPES_BY_FILE = {
    "rating": "rating review score",
    "purchase": "buy bought purchase order transaction sale retail invoice",
    "play": "play listen scrobble stream watch",
    "visit": "checkin check_in visit",
    "click": "click",
}
# Texts that stand for a missing value.
NULLS = ("NULL", "null", "\\N", "NA", "N/A", "None", "nan", "NaN", "undefined", "(not set)", "(null)")


def key(name: str) -> str:
    """Return a name without case and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


def rank(kind: str, column: str, name: str, path: str) -> int | None:
    """Return how well a field's name and path fit a column, 0 is best; None if they do not."""
    synonyms = [key(synonym) for synonym in KINDS[kind].get(column, "").split()]
    last, whole = key(name), key(path)
    for position, synonym in enumerate(synonyms):
        if whole == synonym or (last == synonym and (synonym != "id" or last == whole)):
            return position
    for position, synonym in enumerate(synonyms):
        if len(synonym) >= 6 and (last.endswith(synonym) or whole.endswith(synonym)):
            return len(synonyms) + position
    return None


def type_of_name(name: str, table: dict[str, str]) -> str | None:
    """Return the type of events that a name suggests."""
    for kind, words in table.items():
        if any(key(word) == key(name) if table is TYPES_BY_VALUE else key(word) in key(name) for word in words.split()):
            return kind
    return None
