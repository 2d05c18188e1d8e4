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
        " doc_id document_id subject_id object_id photo_id channel_id restaurant_id ti_sku se_label"
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


# The columns of known files without a header, by their number.
WITHOUT_HEADER = {
    131: (  # Snowplow's enriched events
        "app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker"
        " v_tracker v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx"
        " network_userid geo_country geo_region geo_city geo_zipcode geo_latitude geo_longitude geo_region_name"
        " ip_isp ip_organization ip_domain ip_netspeed page_url page_title page_referrer page_urlscheme"
        " page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme refr_urlhost"
        " refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source refr_term mkt_medium"
        " mkt_source mkt_term mkt_content mkt_campaign contexts se_category se_action se_label se_property"
        " se_value unstruct_event tr_orderid tr_affiliation tr_total tr_tax tr_shipping tr_city tr_state"
        " tr_country ti_orderid ti_sku ti_name ti_category ti_price ti_quantity pp_xoffset_min pp_xoffset_max"
        " pp_yoffset_min pp_yoffset_max useragent br_name br_family br_version br_type br_renderengine br_lang"
        " br_features_pdf br_features_flash br_features_java br_features_director br_features_quicktime"
        " br_features_realplayer br_features_windowsmedia br_features_gears br_features_silverlight br_cookies"
        " br_colordepth br_viewwidth br_viewheight os_name os_family os_manufacturer os_timezone dvce_type"
        " dvce_ismobile dvce_screenwidth dvce_screenheight doc_charset doc_width doc_height tr_currency"
        " tr_total_base tr_tax_base tr_shipping_base ti_currency ti_price_base base_currency geo_timezone"
        " mkt_clickid mkt_network etl_tags dvce_sent_tstamp refr_domain_userid refr_dvce_tstamp derived_contexts"
        " domain_sessionid derived_tstamp event_vendor event_name event_format event_version event_fingerprint"
        " true_tstamp"
    ),
}
